package posix

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Place is the file system that a path lies on, for whoever must keep
// something off the shared one.
type Place struct {
	Type   string // e.g. ext4, nfs4, fuse.sshfs
	Source string // e.g. /dev/vda, server:/export
	Point  string // where it is mounted
	Shared bool   // of a type whose files other machines see
	Local  bool   // of a type that is certainly this machine's own
	Memory bool   // gone after a reboot
}

// localTypes are the usual file systems of one machine.
var localTypes = []string{
	"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "vfat", "exfat", "ntfs3",
	"overlay", "squashfs", "erofs", "tmpfs", "ramfs", "rootfs", "devtmpfs",
}

// FindPlace finds the file system of path, or, where there is no such path, the
// one it would be created on. It does I/O there and may block with it.
func FindPlace(path string) (Place, error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if st, err := os.Stat(path); err == nil && !st.IsDir() {
		path = filepath.Dir(path) // a mount point is a directory, as good as always
	}
	for {
		m, err := inspect(path)
		if errors.Is(err, fs.ErrNotExist) && path != filepath.Dir(path) {
			path = filepath.Dir(path)
			continue
		}
		if err != nil {
			return Place{}, err
		}
		return m.toPlace(), nil
	}
}

// PlaceByName is FindPlace without touching the file system, so it never
// blocks: right unless path leads through symbolic links.
func PlaceByName(path string) Place { return inspectByName(path).toPlace() }

func (m mount) toPlace() Place {
	return Place{
		Type: m.fstype, Source: m.source, Point: m.point, Shared: m.shared(),
		Local:  slices.Contains(localTypes, m.fstype),
		Memory: m.fstype == "tmpfs" || m.fstype == "ramfs" || m.fstype == "devtmpfs",
	}
}
