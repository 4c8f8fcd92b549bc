package faultfs

import (
	"slices"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// stale returns what a listing of the directory has to show under a rule that
// makes it stale, or nil if there is none. list reads the directory.
func (f *FS) stale(rel string, list func() ([]fuse.DirEntry, syscall.Errno)) ([]fuse.DirEntry, syscall.Errno) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range f.faults {
		if !x.rule.Stale || !strings.Contains(rel, x.rule.Path) {
			continue
		}
		if old, ok := x.stale[rel]; ok {
			return slices.Clone(old), 0
		}
		entries, e := list()
		if e != 0 {
			return nil, e
		}
		if x.stale == nil {
			x.stale = map[string][]fuse.DirEntry{}
		}
		x.stale[rel] = entries
		return slices.Clone(entries), 0
	}
	return nil, 0
}
