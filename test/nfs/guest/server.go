package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/understudy-ha/understudy/test/nfs/wire"
)

const (
	procNFSD = "/proc/fs/nfsd"
	stateDir = "/var/lib/nfs"
)

// Serve makes this machine an NFS server, for versions 3, 4.0, 4.1 and 4.2, by
// the kernel's own nfsd. Its helpers live in the image.
func (g *Guest) Serve(e wire.Exports, _ *wire.Nothing) error {
	if err := g.layOut(e); err != nil {
		return err
	}
	lease := strconv.Itoa(int(e.Lease.Seconds()))
	for _, name := range []string{"nfsv4leasetime", "nfsv4gracetime"} {
		if err := os.WriteFile(filepath.Join(procNFSD, name), []byte(lease), 0o600); err != nil {
			return err
		}
	}
	for _, line := range []string{
		"/sbin/rpcbind -w",
		"/usr/sbin/exportfs -o rw,sync,fsid=0,no_root_squash,no_subtree_check,insecure " + e.To + ":" + e.Path,
		"/usr/sbin/rpc.mountd --port 20048",
		"/usr/sbin/rpc.nfsd 8",
	} {
		b, err := command(context.Background(), wire.Command{Args: strings.Fields(line), Chroot: wire.Image}).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, b)
		}
	}
	if e.Again {
		return nil // after the time its clients have to reclaim what was theirs
	}
	return os.WriteFile(filepath.Join(procNFSD, "v4_end_grace"), []byte("Y"), 0o600)
}

// layOut mounts what the server's helpers, who see the image as their root,
// want to write to, and the file system that is exported.
func (g *Guest) layOut(e wire.Exports) error {
	if err := load("nfsd"); err != nil {
		return err
	}
	for _, m := range []wire.MountArgs{
		{Source: "/proc", Target: "/proc", Flags: unix.MS_BIND | unix.MS_REC},
		{Source: "/dev", Target: "/dev", Flags: unix.MS_BIND},
		{Source: "none", Target: "/run", Type: "tmpfs"},
		{Source: "none", Target: stateDir, Type: "tmpfs"},
	} {
		if err := unix.Mount(m.Source, wire.Image+m.Target, m.Type, uintptr(m.Flags), ""); err != nil {
			return fmt.Errorf("mount %s in the image: %w", m.Target, err)
		}
	}
	if !e.Again {
		mkfs := command(context.Background(), wire.Command{Args: []string{"/sbin/mkfs.ext4", "-q", e.Device}, Chroot: wire.Image})
		if b, err := mkfs.CombinedOutput(); err != nil {
			return fmt.Errorf("mkfs.ext4: %w: %s", err, b)
		}
	}
	err := errors.Join(
		unix.Mount(e.Device, wire.Image+e.Path, "ext4", 0, ""),
		unix.Mount("nfsd", procNFSD, "nfsd", 0, ""),
		unix.Mount("nfsd", wire.Image+procNFSD, "nfsd", 0, ""),
		os.Chmod(wire.Image+e.Path, 0o777), //nolint:gosec // clients may be any user
	)
	if err != nil {
		return fmt.Errorf("export %s: %w", e.Device, err)
	}
	// The kernel keeps a list of its clients where rpc.nfsd, which starts it,
	// sees this directory; exportfs wants a file.
	return errors.Join(
		os.Mkdir(wire.Image+"/run/rpcbind", 0o755),
		os.Mkdir(filepath.Join(wire.Image, stateDir, "v4recovery"), 0o755),
		os.WriteFile(filepath.Join(wire.Image, stateDir, "etab"), nil, 0o600),
	)
}
