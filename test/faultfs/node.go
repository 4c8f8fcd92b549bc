package faultfs

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// node is a file or directory: the loopback's, with the rules in front.
type node struct {
	*fs.LoopbackNode
	f *FS
}

// WrapChild puts the rules in front of what the loopback makes.
func (n *node) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	if lb, ok := ops.(*fs.LoopbackNode); ok {
		return &node{LoopbackNode: lb, f: n.f}
	}
	return ops
}

// path names the node beneath the mount; child is one of its entries, or "".
func (n *node) path(child string) string {
	p := n.Path(n.Root())
	switch {
	case child == "":
		return p
	case p == "":
		return child
	}
	return p + "/" + child
}

func (n *node) Statfs(ctx context.Context, out *fuse.StatfsOut) syscall.Errno {
	return n.f.do(ctx, Statfs, func() syscall.Errno { return n.LoopbackNode.Statfs(ctx, out) }, n.path(""))
}

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (ch *fs.Inode, e syscall.Errno) {
	e = n.f.do(ctx, Lookup, func() (e syscall.Errno) {
		ch, e = n.LoopbackNode.Lookup(ctx, name, out)
		if e == syscall.ENOENT {
			if now, ok := n.f.moved(n.path(name)); ok {
				ch, e = n.LoopbackNode.Lookup(ctx, now, out)
			}
		}
		return e
	}, n.path(name))
	return ch, e
}

func (n *node) Getattr(ctx context.Context, fh fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return n.f.do(ctx, Getattr, func() syscall.Errno { return n.LoopbackNode.Getattr(ctx, fh, out) }, n.path(""))
}

func (n *node) Setattr(ctx context.Context, fh fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return n.f.do(ctx, Setattr, func() syscall.Errno { return n.LoopbackNode.Setattr(ctx, fh, in, out) }, n.path(""))
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (ch *fs.Inode, e syscall.Errno) {
	e = n.f.do(ctx, Mkdir, func() (e syscall.Errno) {
		ch, e = n.LoopbackNode.Mkdir(ctx, name, mode, out)
		return e
	}, n.path(name))
	return ch, e
}

func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	return n.f.do(ctx, Rmdir, func() syscall.Errno { return n.LoopbackNode.Rmdir(ctx, name) }, n.path(name))
}

func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	return n.f.do(ctx, Unlink, func() syscall.Errno { return n.LoopbackNode.Unlink(ctx, name) }, n.path(name))
}

func (n *node) Rename(ctx context.Context, name string, to fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	target := newName
	if d, ok := to.(*node); ok {
		target = d.path(newName)
	}
	return n.f.do(ctx, Rename, func() syscall.Errno {
		return n.f.rename(n.path(name), target, func(name string) syscall.Errno {
			return n.LoopbackNode.Rename(ctx, name, to, newName, flags)
		})
	}, n.path(name), target)
}

func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (ch *fs.Inode, e syscall.Errno) {
	e = n.f.do(ctx, Link, func() (e syscall.Errno) {
		ch, e = n.LoopbackNode.Link(ctx, target, name, out)
		return e
	}, n.path(name))
	return ch, e
}

func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (ch *fs.Inode, e syscall.Errno) {
	e = n.f.do(ctx, Symlink, func() (e syscall.Errno) {
		ch, e = n.LoopbackNode.Symlink(ctx, target, name, out)
		return e
	}, n.path(name))
	return ch, e
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (ch *fs.Inode, fh fs.FileHandle, ff uint32, e syscall.Errno) {
	e = n.f.do(ctx, Create, func() (e syscall.Errno) {
		ch, fh, ff, e = n.LoopbackNode.Create(ctx, name, flags, mode, out)
		return e
	}, n.path(name))
	if e != 0 {
		release(ctx, fh)
		return nil, nil, 0, e
	}
	return ch, n.file(fh, n.path(name)), ff | fuse.FOPEN_DIRECT_IO, 0
}

func (n *node) Open(ctx context.Context, flags uint32) (fh fs.FileHandle, ff uint32, e syscall.Errno) {
	e = n.f.do(ctx, Open, func() (e syscall.Errno) {
		fh, ff, e = n.LoopbackNode.Open(ctx, flags)
		return e
	}, n.path(""))
	if e != 0 {
		release(ctx, fh)
		return nil, 0, e
	}
	return n.file(fh, n.path("")), ff | fuse.FOPEN_DIRECT_IO, 0
}

// release closes a handle that was opened before a rule made the open fail.
func release(ctx context.Context, fh fs.FileHandle) {
	if r, ok := fh.(fs.FileReleaser); ok {
		_ = r.Release(ctx) // it was never used
	}
}

func (n *node) file(fh fs.FileHandle, path string) fs.FileHandle {
	if lf, ok := fh.(*fs.LoopbackFile); ok {
		return &file{LoopbackFile: lf, f: n.f, path: path}
	}
	return fh
}

// file is an open file.
type file struct {
	*fs.LoopbackFile
	f    *FS
	path string // when it was opened
}

func (h *file) Read(ctx context.Context, dest []byte, off int64) (res fuse.ReadResult, e syscall.Errno) {
	e = h.f.do(ctx, Read, func() (e syscall.Errno) {
		res, e = h.LoopbackFile.Read(ctx, dest, off)
		return e
	}, h.path)
	return res, e
}

func (h *file) Write(ctx context.Context, data []byte, off int64) (n uint32, e syscall.Errno) {
	e = h.f.do(ctx, Write, func() (e syscall.Errno) {
		n, e = h.LoopbackFile.Write(ctx, data, off)
		return e
	}, h.path)
	return n, e
}

func (h *file) Flush(ctx context.Context) syscall.Errno {
	return h.f.do(ctx, Flush, func() syscall.Errno { return h.LoopbackFile.Flush(ctx) }, h.path)
}

func (h *file) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	return h.f.do(ctx, Fsync, func() syscall.Errno { return h.LoopbackFile.Fsync(ctx, flags) }, h.path)
}

// stream is what the loopback's open directory can do.
type stream interface {
	fs.FileReaddirenter
	fs.FileSeekdirer
	fs.FileReleasedirer
	fs.FileFsyncdirer
}

func (n *node) OpendirHandle(ctx context.Context, flags uint32) (fh fs.FileHandle, ff uint32, e syscall.Errno) {
	e = n.f.do(ctx, Opendir, func() (e syscall.Errno) {
		fh, ff, e = n.LoopbackNode.OpendirHandle(ctx, flags)
		return e
	}, n.path(""))
	s, ok := fh.(stream)
	if e != 0 {
		if ok {
			s.Releasedir(ctx, 0)
		}
		return nil, 0, e
	}
	if !ok {
		return nil, 0, syscall.ENOSYS
	}
	return &dir{stream: s, f: n.f, path: n.path("")}, ff, 0
}

// dir is an open directory.
type dir struct {
	stream
	f     *FS
	path  string
	begun bool            // the kernel reads one directory handle by one caller at a time
	stale []fuse.DirEntry // what to show instead of what is there; nil: what is there
	next  int             // in stale
}

func (d *dir) Readdirent(ctx context.Context) (*fuse.DirEntry, syscall.Errno) {
	if !d.begun {
		d.begun = true
		if e := d.f.do(ctx, Readdir, func() syscall.Errno { return 0 }, d.path); e != 0 {
			d.begun = false
			return nil, e
		}
		var e syscall.Errno
		if d.stale, e = d.f.stale(d.path, func() ([]fuse.DirEntry, syscall.Errno) { return all(ctx, d.stream) }); e != 0 {
			d.begun = false
			return nil, e
		}
		d.next = 0
	}
	if d.stale == nil {
		return d.stream.Readdirent(ctx)
	}
	if d.next == len(d.stale) {
		return nil, 0
	}
	d.next++
	return &d.stale[d.next-1], 0
}

func (d *dir) Seekdir(ctx context.Context, off uint64) syscall.Errno {
	d.begun = off != 0
	if d.begun && d.stale != nil {
		d.next = min(int(off), len(d.stale)) //nolint:gosec // an offset of ours, see all
		return 0
	}
	return d.stream.Seekdir(ctx, off)
}

// all reads a directory to its end. The offsets are those of the result.
func all(ctx context.Context, s stream) ([]fuse.DirEntry, syscall.Errno) {
	entries := []fuse.DirEntry{}
	for {
		e, errno := s.Readdirent(ctx)
		if e == nil || errno != 0 {
			return entries, errno
		}
		e.Off = uint64(len(entries) + 1)
		entries = append(entries, *e)
	}
}

func (d *dir) Fsyncdir(ctx context.Context, flags uint32) syscall.Errno {
	return d.f.do(ctx, Fsyncdir, func() syscall.Errno { return d.stream.Fsyncdir(ctx, flags) }, d.path)
}
