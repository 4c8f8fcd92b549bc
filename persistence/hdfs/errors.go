package hdfs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/colinmarc/hdfs/v2"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/understudy-ha/understudy/persistence"
)

var (
	// errStandby: the NameNode takes no requests of clients now.
	errStandby = errors.New("standby")
	// errLost: there was no whole reply, so that nothing is known.
	errLost   = errors.New("no answer")
	errNotDir = errors.New("is not a directory")
)

// remote is what a NameNode said: the class of an exception and its message.
type remote struct{ class, said string }

func (r *remote) Error() string {
	_, name, ok := cutLast(r.class, ".")
	if !ok {
		name = r.class
	}
	if r.said == "" {
		return name
	}
	return r.said + " (" + name + ")"
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// answered reports whether err is the answer of a NameNode to a request, so
// that the connection is fit for the next one.
func answered(err error) bool {
	var he hdfs.Error
	if errors.As(err, &he) {
		return !strings.HasPrefix(he.Desc(), "FATAL")
	}
	for _, known := range []error{os.ErrNotExist, os.ErrExist, os.ErrPermission, os.ErrInvalid, syscall.ENOTEMPTY, errNotDir, errOurs} {
		if errors.Is(err, known) {
			return true
		}
	}
	var pe *os.PathError
	return errors.As(err, &pe) && (pe.Err.Error() == noSuchAttr || hdfs.IsErrReplicating(err))
}

// noSuchAttr is how the library says so; the variable is its own.
const noSuchAttr = "one or more keys not found"

// errOurs marks errors that no NameNode has to do with.
var errOurs = errors.New("of ours")

// cause tells from the error of a call whether the NameNode was standby
// (errStandby), or did not answer (errLost). Otherwise it is nil.
func (s *session) cause(err error) error {
	if err == nil {
		return nil
	}
	// The library goes on to the next address on its own, and has none.
	if strings.Contains(err.Error(), "ipc.StandbyException") {
		return errStandby
	}
	var he hdfs.Error
	if errors.As(err, &he) && strings.HasSuffix(he.Exception(), ".RetriableException") && strings.Contains(he.Message(), "is not active") {
		return errStandby
	}
	if answered(err) {
		return nil
	}
	return fmt.Errorf("%w: %w", errLost, s.explain(err))
}

// explain finds out what became of a connection or a reply that the library
// could not make sense of.
func (s *session) explain(err error) error {
	if s.conn == nil {
		return err
	}
	if fault := s.conn.fault(); errors.Is(fault, errNotHadoop) {
		return fault
	}
	// What concerns the connection, and not a request, bears a number that the
	// library does not expect.
	if said := exception(s.conn.latest()); said != nil {
		return said
	}
	return err
}

// exception is the one in the header of a reply; nil if there is none.
func exception(reply []byte) *remote {
	head, n := protowire.ConsumeBytes(reply)
	if n < 0 {
		return nil
	}
	r, failed := &remote{}, false
	for len(head) > 0 {
		num, typ, n := protowire.ConsumeTag(head)
		if n < 0 {
			return nil
		}
		head = head[n:]
		if n = protowire.ConsumeFieldValue(num, typ, head); n < 0 {
			return nil
		}
		switch int(num) {
		case 2: // status
			v, _ := protowire.ConsumeVarint(head)
			failed = v != 0
		case 4: // exceptionClassName
			v, _ := protowire.ConsumeBytes(head)
			r.class = string(v)
		case 5: // errorMsg
			v, _ := protowire.ConsumeBytes(head)
			r.said = firstLine(string(v))
		}
		head = head[n:]
	}
	if !failed {
		return nil
	}
	return r
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return short(s)
}

// short is an error in one line of a bearable length.
func short(text string) string {
	const most = 400
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		text = text[:most] + "…"
	}
	return text
}

// silent is the error of a call whose time was over before it was answered.
func (l *link) silent(ctx context.Context, what string) error {
	return fmt.Errorf("%w: %s: no answer from the NameNode of hdfs://%s: %w; is it hung, or the network down? "+
		"See 'hdfs haadmin -getAllServiceState'", persistence.Unknown, what, l.authority, ctx.Err())
}

// lost is the error of a call that may have been carried out.
func (l *link) lost(ctx context.Context, what string, at int, err error) error {
	if ctx.Err() != nil {
		return l.silent(ctx, what)
	}
	v := l.verdictOn(err)
	return fmt.Errorf("%w: %s: NameNode %s: %s; %s", v.kind, what, l.addresses[at], short(err.Error()), v.remedy)
}

// unreached is the error of a call that no NameNode took.
func (l *link) unreached(what string, said []string, last error) error {
	v := l.verdictOn(last)
	if errors.Is(last, errStandby) {
		v.remedy = "is a failover under way? Otherwise make one active: 'hdfs haadmin -getAllServiceState', 'hdfs haadmin -failover'"
	}
	return fmt.Errorf("%w: %s: no NameNode of hdfs://%s is active: %s; %s", v.kind, what, l.authority, strings.Join(said, "; "), v.remedy)
}

// verdict is what a failure means to a caller and to an operator.
type verdict struct {
	kind   error
	remedy string
}

// verdictOn says what to do about a NameNode that can not be spoken with.
func (l *link) verdictOn(err error) verdict {
	var dns *net.DNSError
	text := err.Error()
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return verdict{persistence.Unknown, fmt.Sprintf("%s is neither a host that can be resolved nor a nameservice: %s", l.authority, l.site.knownText())}
	case errors.Is(err, errNotHadoop):
		return verdict{persistence.Unsupported, "name the RPC port of the NameNode, which is " + defaultPort + " as a rule, or the nameservice"}
	case strings.Contains(text, "SIMPLE authentication is not enabled"):
		return verdict{persistence.Denied, "this cluster wants Kerberos: set hadoop.security.authentication in core-site.xml here too, and store.hdfs.kerberos"}
	case strings.Contains(text, "kerberos authentication not supported"):
		return verdict{persistence.Denied, "this cluster knows no Kerberos: remove store.hdfs.kerberos, and hadoop.security.authentication from core-site.xml"}
	case errors.Is(err, errKerberos), l.tickets != nil && strings.Contains(text, "SASL handshake"):
		return l.tickets.verdictOn(err)
	case strings.Contains(text, "Unknown protocol"), strings.Contains(text, "RpcNoSuchProtocolException"):
		return verdict{persistence.Unsupported, otherPart}
	case strings.Contains(text, "AuthorizationException"):
		return verdict{persistence.Denied, fmt.Sprintf("allow %s in hadoop-policy.xml (security.client.protocol.acl)", l.who())}
	}
	return verdict{persistence.Unknown, "look whether the NameNode runs, and at its log"}
}

// rule is what an exception means.
type rule struct {
	class  string // a part of it
	said   string // a part of the message; "" any
	kind   error
	remedy string
}

// rules are tried in order.
var rules = []rule{
	{"RpcNoSuchProtocolException", "", persistence.Unsupported, otherPart},
	{"SafeModeException", "", persistence.ReadOnly, safeMode},
	{"RetriableException", "safe mode", persistence.ReadOnly, safeMode},
	{"NSQuotaExceededException", "", persistence.Full, "raise the limit of names with 'hdfs dfsadmin -setQuota', or remove files there"},
	{"DSQuotaExceededException", "", persistence.Full, "raise the limit of space with 'hdfs dfsadmin -setSpaceQuota', or remove files there"},
	{"QuotaByStorageTypeExceededException", "", persistence.Full, "raise the limit of space with 'hdfs dfsadmin -setSpaceQuota', or remove files there"},
	{"MaxDirectoryItemsExceededException", "", persistence.Full, "remove files there, or raise dfs.namenode.fs-limits.max-directory-items"},
	{"PathComponentTooLongException", "", persistence.Unsupported, "raise dfs.namenode.fs-limits.max-component-length to 255"},
	{"ParentNotDirectoryException", "", persistence.Unsupported, "move away what is not a directory"},
	{"AccessControlException", "", persistence.Denied, ""}, // see denied
	{"AuthorizationException", "", persistence.Denied, "allow this user in hadoop-policy.xml"},
	{"SnapshotAccessControlException", "", persistence.Unsupported, "name a directory that is no snapshot"},
	{"IOException", "could only be", persistence.Unknown, "no DataNode takes it: look at 'hdfs dfsadmin -report'; what is small, and the register, needs none"},
	{"IOException", "could only be written", persistence.Unknown, "look at 'hdfs dfsadmin -report'"},
	{"NotReplicatedYetException", "", persistence.Unknown, "the DataNodes are slow to report; this passes by itself as a rule, otherwise look at 'hdfs dfsadmin -report'"},
	{"RetriableException", "", persistence.Unknown, "this passes by itself as a rule; if it lasts, look at the NameNode's log"},
	{"ServerTooBusyException", "", persistence.Throttled, "the NameNode has too much to do; raise ha.heartbeatInterval, or dfs.namenode.handler.count"},
}

const otherPart = "this is another part of Hadoop than a NameNode; name the NameNode's RPC port, or the nameservice"

const safeMode = "the NameNode is in safe mode and takes no changes: wait until it has heard of enough blocks, or look why not with 'hdfs dfsadmin -safemode get'; 'hdfs dfsadmin -safemode leave' ends one that somebody began"

// wrap puts the error of one request into words, with its kind and a remedy.
// What attempt has to judge by itself is passed on.
func (s *Store) wrap(c *session, op, file string, err error) error {
	switch {
	case err == nil:
		return nil
	case c.cause(err) != nil, errors.Is(err, errOurs):
		return err
	}
	target := op + " " + s.url(file)
	var he hdfs.Error
	if errors.As(err, &he) {
		r := &remote{he.Exception(), firstLine(he.Message())}
		for _, rule := range rules {
			if strings.Contains(r.class, rule.class) && strings.Contains(strings.ToLower(he.Message()), rule.said) && rule.remedy != "" {
				return ours("%w: %s: %w; %s", rule.kind, target, r, rule.remedy)
			}
		}
		return ours("%w: %s: %w; look at the NameNode's log", persistence.Unknown, target, r)
	}
	switch {
	case errors.Is(err, os.ErrPermission):
		return ours("%w: %s: %s", persistence.Denied, target, s.denied(c, file))
	case errors.Is(err, os.ErrNotExist):
		return ours("%w: %s: there is no such file", persistence.Absent, target)
	case errors.Is(err, errNotDir):
		return ours("%w: %s: it is a file; name a directory", persistence.Unsupported, target)
	case errors.Is(err, os.ErrExist), errors.Is(err, syscall.ENOTEMPTY):
		return ours("%w: %s: it exists already", persistence.Conflict, target)
	}
	return ours("%w: %s: %s", persistence.Unknown, target, short(err.Error()))
}

// ours is an error that is complete: nothing is to be added, and the connection
// is fit for use.
func ours(format string, args ...any) error {
	return &told{fmt.Errorf(format, args...)}
}

type told struct{ error }

func (t *told) Unwrap() error        { return t.error }
func (t *told) Is(target error) bool { return target == errOurs }

// denied says who may not do what where. The library leaves out what the
// NameNode says about it.
func (s *Store) denied(c *session, file string) string {
	const remedy = "give this user read, write and search permission there: 'hdfs dfs -chown', 'hdfs dfs -chmod'"
	who := s.link.who()
	// The nearest directory that can be looked at is the one that matters, or
	// lies above it.
	for p := file; ; p = path.Dir(p) {
		fi, err := c.client.Stat(p)
		if err != nil && p != "/" {
			continue
		}
		if err != nil {
			return fmt.Sprintf("user %s may not do this; %s", who, remedy)
		}
		owner := ""
		if i, ok := fi.(*hdfs.FileInfo); ok {
			owner = fmt.Sprintf("belongs to %s:%s and ", i.Owner(), i.OwnerGroup())
		}
		return fmt.Sprintf("user %s may not do this: %s %shas the mode %s; %s", who, p, owner, fi.Mode(), remedy)
	}
}

// rootError explains why the location itself could not be used.
func (s *Store) rootError(c *session, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return ours("%w: directory %s does not exist; create it: 'hdfs dfs -mkdir -p %s' and give it to %s (understudy never creates it itself)",
			persistence.Absent, s.url(s.root), s.root, s.link.who())
	}
	return s.wrap(c, "list", s.root, err)
}
