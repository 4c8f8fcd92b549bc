package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/understudy-ha/understudy/pkg/lease"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/faultfs"
	"github.com/understudy-ha/understudy/test/s3/proxy"
	"github.com/understudy-ha/understudy/test/s3/server"
)

// shared is what the nodes share, and how it is made to misbehave.
type shared interface {
	kinds() []Kind
	pollDivisor() int // as persistence.Limits says
	options() harness.Options
	// registers is the directory of the service's registers as a node sees it;
	// of nil, as it is.
	registers(p *harness.Plane, n *harness.Node) string
	// watch reports every change of the register, in order, once ctx has ended.
	watch(ctx context.Context, p *harness.Plane) (changes func() ([]Change, error), err error)
	// inject lets it misbehave for one node, until end, which says how many
	// operations were struck.
	inject(s Step, n *harness.Node) (end func() (struck int))
}

// directory is shared through a file system of each node's own that can fail.
// The service's registers are in it, too.
type directory struct{}

func (*directory) kinds() []Kind            { return Kinds }
func (*directory) pollDivisor() int         { return 5 }
func (*directory) options() harness.Options { return harness.Options{FaultFS: true} }

func (*directory) registers(p *harness.Plane, n *harness.Node) string {
	if n == nil {
		return filepath.Join(p.Store, "registers")
	}
	return filepath.Join(n.Store, "registers")
}

func (*directory) watch(ctx context.Context, p *harness.Plane) (func() ([]Change, error), error) {
	return Watch(ctx, p.Store)
}

func (*directory) inject(s Step, n *harness.Node) func() int {
	var faults []*faultfs.Fault
	for _, rule := range rules(s) {
		faults = append(faults, n.Fault.Inject(rule))
	}
	return func() (struck int) {
		for _, f := range faults {
			f.Remove()
			struck += f.Fired()
		}
		return struck
	}
}

// rules are those of a step's fault.
func rules(s Step) []faultfs.Rule {
	each := func(e syscall.Errno, ops ...faultfs.Op) (out []faultfs.Rule) {
		for _, op := range ops {
			out = append(out, faultfs.Rule{Op: op, Errno: e})
		}
		return out
	}
	switch s.Kind { //nolint:exhaustive // the others are none of a file system
	case StoreSlow:
		return []faultfs.Rule{{Delay: s.Delay}}
	case StoreFails:
		return []faultfs.Rule{{Errno: syscall.EIO}}
	case StoreHangs, AllHang:
		return []faultfs.Rule{{Hang: true, Deaf: s.Deaf}}
	case StoreLoses:
		return []faultfs.Rule{{Op: faultfs.Rename, After: true, Errno: syscall.EIO}}
	case StoreReads:
		return each(syscall.EROFS, faultfs.Rename, faultfs.Create, faultfs.Write, faultfs.Mkdir, faultfs.Unlink, faultfs.Fsync, faultfs.Fsyncdir)
	case StoreWrites:
		return each(syscall.EIO, faultfs.Opendir, faultfs.Readdir, faultfs.Read)
	}
	panic("not a fault of a file system: " + s.Kind)
}

// bucket is on a real S3 server, with a network of each node's own in between.
// The service's registers are in a directory that does not fail.
type bucket struct {
	server *server.Server
	of     map[string]*proxy.Proxy // by the name of the node

	mu      sync.Mutex
	changes []Change
	failed  error
}

const bucketPrefix = "plane"

func newBucket(t *testing.T, seed uint64) *bucket {
	t.Helper()
	b := &bucket{server: server.Start(t, server.Versity), of: map[string]*proxy.Proxy{}}
	for i := range nodes {
		p := proxy.Start(t, b.server.URL, seed+uint64(i)) //nolint:gosec // small
		p.Tap(b.heard)
		b.of[fmt.Sprintf("n%d", i+1)] = p
	}
	return b
}

func (*bucket) kinds() []Kind    { return NetKinds }
func (*bucket) pollDivisor() int { return 1 }

func (b *bucket) options() harness.Options {
	return harness.Options{Storage: &harness.Storage{
		Location: func(node string) string {
			if node == "" {
				return b.server.Location("", bucketPrefix)
			}
			return b.server.Location(b.of[node].URL, bucketPrefix)
		},
		Env:      b.server.Env(),
		Register: b.register,
	}}
}

func (b *bucket) register() ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), settle)
	defer cancel()
	out, err := b.server.Client().GetObject(ctx, &s3.GetObjectInput{Bucket: &b.server.Bucket, Key: aws.String(bucketPrefix + "/lease")})
	if err != nil {
		return nil, err
	}
	defer out.Body.Close()
	return io.ReadAll(out.Body)
}

func (*bucket) registers(p *harness.Plane, _ *harness.Node) string {
	return filepath.Join(p.Dir, "registers")
}

// heard takes note of each write of the register that the server has carried
// out, whether or not its sender got to know.
func (b *bucket) heard(r proxy.Request) {
	if r.Kind != proxy.Put || r.Status != http.StatusOK || !strings.HasSuffix(r.Path, "/"+bucketPrefix+"/lease") {
		return
	}
	v, err := lease.ParseValue(r.Body)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed = errors.Join(b.failed, err)
	b.changes = append(b.changes, Change{r.At, v})
}

// watch implements shared. The answers to two writes that follow each other at
// once, of two nodes, may pass each other on their way here: the order is that
// of the sequence numbers, of which the judge wants each once.
func (b *bucket) watch(ctx context.Context, _ *harness.Plane) (func() ([]Change, error), error) {
	return func() ([]Change, error) {
		<-ctx.Done()
		b.mu.Lock()
		defer b.mu.Unlock()
		slices.SortStableFunc(b.changes, func(x, y Change) int { return cmp.Compare(x.Value.Seq, y.Value.Seq) })
		return b.changes, b.failed
	}, nil
}

func (b *bucket) inject(s Step, n *harness.Node) func() int {
	var faults []*proxy.Fault
	for _, rule := range netRules(s) {
		faults = append(faults, b.of[n.Name].Inject(rule))
	}
	return func() (struck int) {
		for _, f := range faults {
			f.Remove()
			struck += f.Fired()
		}
		return struck
	}
}

// netRules are those of a step's fault.
func netRules(s Step) []proxy.Rule {
	unavailable := func(match func(*http.Request) bool) []proxy.Rule {
		return []proxy.Rule{{Match: match, Status: http.StatusServiceUnavailable, Code: "SlowDown"}}
	}
	reads := func(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }
	switch s.Kind { //nolint:exhaustive // the others are none of a network
	case NetSlow:
		return []proxy.Rule{{Delay: s.Delay}}
	case NetUnavailable:
		return unavailable(nil)
	case NetSilent, NetAllSilent:
		// Half of what vanishes does so on its way back.
		return []proxy.Rule{{Hang: true, Chance: 0.5}, {Hang: true, After: true}}
	case NetRefuses:
		return []proxy.Rule{{Reset: true}}
	case NetLoses:
		return []proxy.Rule{{Reset: true, After: true}}
	case NetRandom:
		return []proxy.Rule{{Reset: true, Chance: 1.0 / 6}, {Reset: true, After: true, Chance: 1.0 / 5}}
	case NetTwice:
		return []proxy.Rule{{Twice: true}}
	case NetMasked:
		return []proxy.Rule{{Status: http.StatusOK, Code: "InternalError", After: true, Chance: 0.5}, {Status: http.StatusOK, Code: "InternalError"}}
	case NetCut:
		return []proxy.Rule{{Cut: true}}
	case NetReads:
		return unavailable(func(r *http.Request) bool { return !reads(r) })
	case NetWrites:
		return unavailable(reads)
	}
	panic("not a fault of a network: " + s.Kind)
}
