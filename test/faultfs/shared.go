package faultfs

import (
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A rename that is not exclusive (Rule.Shared) is played by remembering, for a
// while, where a file went: who asks for its old name then still finds it, and
// may rename it once more. The kernel looks the source up under its lock on
// the directory before it sends the rename, so that the lookup has to be
// fooled as well. What is remembered is shared by all mounts of this process,
// since the racing clients of one server are different mounts.
var whereabouts = struct {
	sync.Mutex
	m map[string]movement // by absolute path beneath the backing directory
}{m: map[string]movement{}}

type movement struct {
	to    string // a name in the same directory
	until time.Time
}

// sharedRule returns the rule that makes renames of this path shared, if any.
func (f *FS) sharedRule(paths ...string) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range f.faults {
		if x.rule.Shared > 0 && slices.ContainsFunc(paths, func(p string) bool { return strings.Contains(p, x.rule.Path) }) {
			return x
		}
	}
	return nil
}

// moved says under which name of the same directory the file lies now that a
// shared rename has just taken from rel.
func (f *FS) moved(rel string) (name string, ok bool) {
	if f.sharedRule(rel) == nil {
		return "", false
	}
	whereabouts.Lock()
	defer whereabouts.Unlock()
	at := filepath.Join(f.backing, rel)
	for range len(whereabouts.m) {
		m, known := whereabouts.m[at]
		if !known || time.Now().After(m.until) {
			break
		}
		name, at = m.to, filepath.Join(filepath.Dir(at), m.to)
	}
	return name, name != ""
}

// rename renames by apply, which takes the source's name, as the rules say
// about exclusivity. Both paths lie beneath the mount.
func (f *FS) rename(from, to string, apply func(name string) syscall.Errno) syscall.Errno {
	x := f.sharedRule(from, to)
	e := apply(path.Base(from))
	if x == nil || path.Dir(from) != path.Dir(to) {
		return e
	}
	if now, ok := f.moved(from); e == syscall.ENOENT && ok && now != path.Base(to) {
		if e = apply(now); e == 0 {
			f.mu.Lock()
			x.seen++
			x.fired++
			f.mu.Unlock()
			f.remember(path.Join(path.Dir(from), now), to, x.rule.Shared)
		}
		return e
	}
	if e == 0 {
		f.remember(from, to, x.rule.Shared)
	}
	return e
}

func (f *FS) remember(from, to string, d time.Duration) {
	whereabouts.Lock()
	defer whereabouts.Unlock()
	now := time.Now()
	for at, m := range whereabouts.m {
		if now.After(m.until) {
			delete(whereabouts.m, at)
		}
	}
	delete(whereabouts.m, filepath.Join(f.backing, to)) // it is there again
	whereabouts.m[filepath.Join(f.backing, from)] = movement{to: path.Base(to), until: now.Add(d)}
}
