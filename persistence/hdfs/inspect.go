package hdfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"github.com/colinmarc/hdfs/v2"

	"github.com/understudy-ha/understudy/persistence"
)

// The names of the findings of Inspect.
const (
	aboutNames  = "NameNodes"
	aboutLogin  = "login"
	aboutDir    = "directory"
	aboutWrites = "writing"
	aboutClock  = "store clock"
	aboutAttrs  = "extended attributes"
	aboutQuota  = "quota"
	aboutData   = "DataNodes"
)

// clockTolerance is what clocks may differ by unnoticed.
const clockTolerance = 10 * time.Second

func okay(name, format string, args ...any) persistence.Finding {
	return persistence.Finding{Name: name, Status: persistence.GradeOK, Detail: fmt.Sprintf(format, args...)}
}

func doubtful(name, remedy, format string, args ...any) persistence.Finding {
	return persistence.Finding{Name: name, Status: persistence.GradeWarn, Detail: fmt.Sprintf(format, args...), Remedy: remedy}
}

// failure is a finding out of an error, which carries its own remedy.
func failure(name string, err error) persistence.Finding {
	return persistence.Finding{Name: name, Status: persistence.GradeFail, Detail: err.Error()}
}

// Inspect implements persistence.Inspector: the NameNodes, who one is to them,
// the directory, its quota, whether one may write there and how.
func (s *Store) Inspect(ctx context.Context) []persistence.Finding {
	if err := s.open(); err != nil {
		return []persistence.Finding{failure(aboutNames, err)}
	}
	found := []persistence.Finding{s.inspectNames(ctx), s.inspectLogin()}
	for _, part := range []struct {
		name string
		look func(*session) []persistence.Finding
	}{{aboutDir, s.inspectDir}, {aboutWrites, s.inspectWriting}, {aboutQuota, s.inspectQuota}, {aboutData, s.inspectData}} {
		// One call each: what was found out before a hang is kept.
		got, err := call(ctx, s.objects, "look at "+s.url(s.root), func(c *session) ([]persistence.Finding, error) {
			// What it could not find out is a finding; that the NameNode has
			// failed is for the call to deal with.
			list := part.look(c)
			return list, nil
		})
		if err != nil {
			return append(found, failure(part.name, err))
		}
		found = append(found, got...)
	}
	return found
}

// inspectNames asks each NameNode whether it is active.
func (s *Store) inspectNames(ctx context.Context) persistence.Finding {
	l := s.link
	const each = 2 * time.Second
	var said []string
	active := 0
	for at, address := range l.addresses {
		state := "active"
		one, cancel := context.WithTimeout(ctx, each)
		c, err := l.open(one, at, true)
		if err == nil {
			stop := c.during(one)
			_, err = c.client.Stat("/")
			if cause := c.cause(err); cause != nil {
				err = cause
			}
			stop()
			c.abort()
		}
		cancel()
		switch {
		case err == nil, errors.Is(err, os.ErrPermission):
			active++
		case errors.Is(err, errStandby):
			state = "standby"
		default:
			state = short(err.Error())
		}
		said = append(said, address+" "+state)
	}
	where := "of the URL"
	if l.site.dir != "" {
		where = "as " + l.site.dir + " has them"
	}
	text := fmt.Sprintf("%s (%s)", strings.Join(said, ", "), where)
	switch {
	case active == 0:
		return persistence.Finding{
			Name: aboutNames, Status: persistence.GradeFail, Detail: "none is active: " + text,
			Remedy: "start one, or make one active: 'hdfs haadmin -getAllServiceState'",
		}
	case len(l.addresses) == 1:
		return doubtful(aboutNames, "name a nameservice with a standby NameNode, if there is one", "%s; without another one the plane stops when it does", text)
	}
	return okay(aboutNames, "%s", text)
}

func (s *Store) inspectLogin() persistence.Finding {
	if s.link.tickets == nil {
		return okay(aboutLogin, "as %s, which the NameNode takes on trust: there is no Kerberos", s.link.who())
	}
	t := s.link.tickets
	if t.opts.Keytab == "" {
		return doubtful(aboutLogin, "set store.hdfs.kerberos.keytab and principal, or see to it that something like k5start renews the cache",
			"as %s with the tickets in %s, which somebody else has to renew", t.who(), t.opts.CCache)
	}
	return okay(aboutLogin, "as %s with the keytab %s; tickets are renewed ahead of time", t.who(), t.opts.Keytab)
}

func (s *Store) inspectDir(c *session) []persistence.Finding {
	fi, err := c.client.Stat(s.root)
	if err != nil {
		return []persistence.Finding{failure(aboutDir, s.rootError(c, err))}
	}
	if !fi.IsDir() {
		return []persistence.Finding{failure(aboutDir, s.wrap(c, "list", s.root, errNotDir))}
	}
	owner := ""
	if i, ok := fi.(*hdfs.FileInfo); ok {
		owner = fmt.Sprintf(" of %s:%s", i.Owner(), i.OwnerGroup())
	}
	f := okay(aboutDir, "%s%s, mode %s", s.url(s.root), owner, fi.Mode())
	if fi.Mode().Perm()&0o002 != 0 {
		f.Status = persistence.GradeWarn
		f.Remedy = "take write permission from others: 'hdfs dfs -chmod o-w " + s.root + "'"
		f.Detail += ": anybody may write there, and who can rename the register is master"
	}
	return []persistence.Finding{f}
}

// inspectWriting does what a node does, and compares the time that the NameNode
// gives what is made with this machine's.
func (s *Store) inspectWriting(c *session) []persistence.Finding {
	if err := s.ensureRoot(c); err != nil {
		return []persistence.Finding{failure(aboutWrites, err)}
	}
	before := time.Now()
	stamp, err := s.scratch(c)
	after := time.Now()
	if err != nil {
		return []persistence.Finding{failure(aboutWrites, err)}
	}
	return []persistence.Finding{
		okay(aboutWrites, "a directory was made and removed in %s", after.Sub(before).Round(10*time.Microsecond)),
		judgeClock(before, stamp, after),
		s.inspectAttrs(c),
	}
}

// judgeClock compares a time of the NameNode's, taken between two readings of
// the own clock, with these. No decision rests on it.
func judgeClock(before, stamp, after time.Time) persistence.Finding {
	var off time.Duration
	switch {
	case stamp.Before(before):
		off = stamp.Sub(before)
	case stamp.After(after):
		off = stamp.Sub(after)
	}
	switch {
	case off.Abs() < time.Second:
		return okay(aboutClock, "agrees with this machine's")
	case off.Abs() < clockTolerance:
		return okay(aboutClock, "%s off this machine's", off.Round(100*time.Millisecond))
	}
	return doubtful(aboutClock, "run NTP on both; Kerberos takes five minutes as a rule",
		"%s off this machine's; nothing is decided by it, but times shown to people will not match", off.Round(100*time.Millisecond))
}

func (s *Store) inspectAttrs(c *session) persistence.Finding {
	file := s.in(".check-" + random())
	if err := touch(c.client, file); err != nil {
		return failure(aboutAttrs, s.wrap(c, "create a file in", s.root, err))
	}
	defer func() { _ = c.client.Remove(file) }() // it begins with '.'
	err := c.client.SetXAttr(file, attribute, strings.Repeat("x", smallSize))
	switch {
	case err == nil:
		return okay(aboutAttrs, "work: a node's record is one request")
	case errors.Is(s.attrError(c, file, err), errNoAttrs):
		return doubtful(aboutAttrs, "turn them on (dfs.namenode.xattrs.enabled), and let them be 16 KiB long (dfs.namenode.fs-limits.max-xattr-size)",
			"can not be had: each node's record is written through a DataNode, in several requests")
	}
	return failure(aboutAttrs, s.wrap(c, "set an attribute of", file, err))
}

// inspectQuota looks for limits on the directory and those above it.
func (s *Store) inspectQuota(c *session) []persistence.Finding {
	const (
		few       = 1000    // names, of which a plane needs some tens and each reign one
		unlimited = 1 << 60 // the root has a quota always, of as many names as there are numbers
	)
	limits := ""
	for dir := s.root; ; dir = path.Dir(dir) {
		sum, err := c.client.GetContentSummary(dir)
		if err != nil {
			if dir == s.root && !errors.Is(err, os.ErrPermission) {
				return []persistence.Finding{failure(aboutQuota, s.wrap(c, "sum up", dir, err))}
			}
			break // not ours to look at
		}
		if quota := sum.NameQuota(); quota > 0 && quota < unlimited {
			left := quota - sum.FileCount() - sum.DirectoryCount()
			limits += fmt.Sprintf("%s may have %d more names; ", dir, left)
			if left < few {
				return []persistence.Finding{doubtful(aboutQuota, "raise it: 'hdfs dfsadmin -setQuota'",
					"%s may have %d more names of %d; a master that can not write its register stops its service", dir, left, quota)}
			}
		}
		if quota := sum.SpaceQuota(); quota > 0 {
			limits += fmt.Sprintf("%s may have %d more bytes; ", dir, quota-sum.SizeAfterReplication())
		}
		if dir == "/" || dir == "." {
			break
		}
	}
	if limits == "" {
		return []persistence.Finding{okay(aboutQuota, "none")}
	}
	return []persistence.Finding{okay(aboutQuota, "%s", strings.TrimSuffix(limits, "; "))}
}

// inspectData says what large objects can count on.
func (s *Store) inspectData(c *session) []persistence.Finding {
	fs, err := c.client.StatFs()
	if err != nil {
		return []persistence.Finding{failure(aboutData, s.wrap(c, "look up the space of", "/", err))}
	}
	if p := s.link.library.DataTransferProtection; p == hdfs.DataTransferProtectionIntegrity {
		return []persistence.Finding{doubtful(aboutData, "where artifacts are to be kept here, have the cluster offer dfs.data.transfer.protection authentication, or privacy with AES",
			"transfers are protected by %s, with which the client library can write large objects and not read them; the register and what is small need none of it", p)}
	}
	if fs.Remaining == 0 {
		return []persistence.Finding{doubtful(aboutData, "look at 'hdfs dfsadmin -report'",
			"there is no room on any; the register and what is small need none, artifacts do")}
	}
	return []persistence.Finding{okay(aboutData, "%d MiB are free; the register and what is small need none of it", fs.Remaining>>20)}
}
