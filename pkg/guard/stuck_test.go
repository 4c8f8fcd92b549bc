package guard

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/understudy-ha/understudy/test/need"
)

// hangFile is a file whose readers sleep uninterruptibly until it is let go.
type hangFile struct {
	fs.Inode
	entered chan struct{}
	once    sync.Once
	letGo   chan struct{}
}

func (f *hangFile) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

// Read ignores the kernel's interrupt, as a dead NFS server would.
func (f *hangFile) Read(context.Context, fs.FileHandle, []byte, int64) (fuse.ReadResult, syscall.Errno) {
	f.once.Do(func() { close(f.entered) })
	<-f.letGo
	return nil, syscall.EIO
}

func mountHang(t *testing.T) (path string, f *hangFile) {
	t.Helper()
	need.Root(t, "mount a file system that hangs")
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("this kernel has no FUSE: no process can be made to survive SIGKILL")
	}
	dir := t.TempDir()
	f = &hangFile{entered: make(chan struct{}), letGo: make(chan struct{})}
	root := &fs.Inode{}
	srv, err := fs.Mount(dir, root, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMount: true},
		OnAdd: func(ctx context.Context) {
			root.AddChild("hang", root.NewPersistentInode(ctx, f, fs.StableAttr{}), false)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "hang"), f
}

// A service that survives SIGKILL is never called stopped: it is reported at
// the end of the right to serve, nothing is released and the directory stays
// locked until it is really gone.
func TestStuckIsNeverCalledEmpty(t *testing.T) {
	t.Parallel()
	each(t, func(d *daemon) {
		t := d.t
		if d.variant.nobody {
			return // can not enter root's scratch directory; nothing of the guard differs
		}
		path, f := mountHang(t)
		letGo := sync.OnceFunc(func() { close(f.letGo) })
		defer letGo()
		const end = 4 * time.Second
		d.arm(1, time.Minute, time.Minute, time.Minute)
		d.tell(order{Do: opStart, Term: 1, RunID: 1, Argv: []string{"/bin/cat", path, d.dir}})
		d.wait(Started)
		select {
		case <-f.entered:
		case <-time.After(wait):
			t.Fatal("nobody reads the hanging file")
		}
		t0 := boot()
		d.arm(1, soon, 2*soon, end)
		if e := d.wait(Stuck, Empty); e.Kind != Stuck || e.Term != 1 {
			t.Fatalf("%+v", e)
		}
		if at := boot() - t0; at < end-50*time.Millisecond {
			t.Errorf("stuck said %v after t0, before the end of the right to serve", at)
		}
		select {
		case e := <-d.lines:
			t.Fatalf("after stuck: %+v", e)
		case <-time.After(300 * time.Millisecond):
		}
		d.kill9(d.proc.Pid)
		<-d.ended
		time.Sleep(300 * time.Millisecond)
		d.notReleased()
		if _, err := LockDir(d.dir); err == nil {
			t.Error("the data directory is free")
		}
		if tree, _, _ := LoadTree(d.dir); tree.Empty {
			t.Error("recorded as empty")
		}
		freed := boot()
		letGo()
		if at := d.releasedAt(wait); at < freed {
			t.Error("released while the service was alive")
		}
	})
}
