package config

import (
	"path/filepath"

	"github.com/understudy-ha/understudy/pkg/artifact"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// artifacts judges where artifacts lie, and what the service's commands want of
// them.
func (v *validator) artifacts() {
	c := v.c
	if _, own, err := c.ArtifactsLocation(); own && err != nil {
		v.bad("artifacts.root", "%v", err)
	}
	if dir := c.Artifacts.CacheDir; dir != "" {
		loc, err := c.Location()
		switch {
		case !filepath.IsAbs(dir):
			v.bad("artifacts.cacheDir", "%q is not an absolute path; write e.g. /var/cache/understudy", dir)
		case err == nil && loc.Scheme == "file" && within(dir, loc.Path):
			v.bad("artifacts.cacheDir", "%s lies on the shared store (persistenceDir %s): when that hangs, the service could not be started; use a directory of this machine", dir, loc.Path)
		}
	}
	if c.Artifacts.CacheSize < 1<<20 {
		v.bad("artifacts.cacheSize", "%s holds nothing; write at least 1MiB", c.Artifacts.CacheSize)
	}
	s := c.Service
	names, err := artifact.Names(s.Command)
	switch {
	case err != nil:
		v.bad("service.command", "%v", err)
	case len(names) > 0 && (c.PersistMode == PersistDisabled || c.HighAvailabilityMode == lease.ModeDisabled):
		v.bad("service.command", "{artifact:%s}: what it means is part of the persisted state, and there is none with persistMode or highAvailabilityMode DISABLED; name a file", names[0])
	}
	for _, f := range []struct {
		key  string
		argv []string
	}{{"service.stop", s.Stop}, {"service.probe", s.Probe}, {"service.standbyCommand", s.StandbyCmd}, {"service.ready.exec", s.Ready.Exec}} {
		if names, err := artifact.Names(f.argv); err != nil || len(names) > 0 {
			v.bad(f.key, "{artifact:…} can be used in service.command only; name a program of this machine")
		}
	}
}
