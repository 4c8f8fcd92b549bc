package secure_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	lib "github.com/colinmarc/hdfs/v2"
	krb "github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/keytab"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/hdfs"
	"github.com/understudy-ha/understudy/persistence/storetest"
	"github.com/understudy-ha/understudy/persistence/verify"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/hdfs/cluster"
	"github.com/understudy-ha/understudy/test/need"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

const (
	startWithin = 3 * time.Minute
	settle      = 30 * time.Second
	// lifetime is that of tickets: the shortest that leaves the servers time to
	// start with theirs.
	lifetime = 90 * time.Second
)

// secured is a cluster that wants Kerberos.
type secured struct {
	*cluster.Cluster
	kdc *cluster.KDC
}

// start starts a KDC and a cluster, which end with the test.
func start(t *testing.T, protection string) *secured {
	t.Helper()
	if why := cluster.Missing(); why != "" {
		need.Missing(t, why)
	}
	ctx, cancel := context.WithTimeout(t.Context(), startWithin)
	defer cancel()
	name, err := os.Hostname()
	must(t, err)
	kdc, err := cluster.StartKDC(ctx, newDir(t), lifetime, "nn/localhost", "dn/localhost", "HTTP/localhost", "understudy", "understudy/"+strings.ToLower(name))
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the KDC says:\n%s", kdc.Log())
		}
		if err := kdc.Kill(); err != nil {
			t.Error(err)
		}
	})
	c, err := cluster.Start(ctx, newDir(t), kdc.Secured(protection), false)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the NameNode says:\n%s", c.Log(c.Names[0]))
		}
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	s := &secured{c, kdc}
	s.mkdir(t, "/tests")
	return s
}

// login is the keytab of the principal that may do everything.
func (s *secured) login() hdfs.Kerberos {
	return hdfs.Kerberos{Principal: cluster.Understudy + "@" + cluster.Realm, Keytab: s.kdc.Keytab, Config: s.kdc.Conf}
}

func (s *secured) open(t *testing.T, dir string, login hdfs.Kerberos) *hdfs.Store {
	t.Helper()
	st, err := hdfs.Open(cluster.Nameservice, dir, hdfs.Options{ConfDir: s.ConfDir(), Kerberos: login})
	must(t, err)
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

// mkdir makes a directory with the library alone.
func (s *secured) mkdir(t *testing.T, dir string) {
	t.Helper()
	conf, err := config.Load(s.kdc.Conf)
	must(t, err)
	keys, err := keytab.Load(s.kdc.Keytab)
	must(t, err)
	user := krb.NewWithKeytab(cluster.Understudy, cluster.Realm, keys, conf, krb.DisablePAFXFAST(true))
	defer user.Destroy()
	client, err := lib.NewClient(lib.ClientOptions{
		Addresses: []string{fmt.Sprintf("localhost:%d", s.Names[0].RPC)}, KerberosClient: user, KerberosServicePrincipleName: "nn/localhost",
	})
	must(t, err)
	defer client.Close()
	must(t, client.MkdirAll(dir, 0o755))
}

// TestKerberos: the store keeps the contract with each protection. With integrity
// alone files can not be read back, which the library can not do and an
// inspection tells.
func TestKerberos(t *testing.T) {
	for _, protection := range []string{"authentication", "integrity", "privacy"} {
		t.Run(protection, func(t *testing.T) {
			s := start(t, protection)
			n := 0
			if protection == "integrity" {
				s.unreadable(t)
			} else {
				storetest.Run(t, func(t *testing.T) (a, b persistence.Store) {
					t.Helper()
					n++
					dir := fmt.Sprintf("/tests/conformance-%d", n)
					s.mkdir(t, dir)
					host := s.login()
					host.Principal = cluster.Understudy + "/_HOST" // without its realm, for a change
					return openFor(t, s, dir, s.login()), openFor(t, s, dir, host)
				})
			}
			s.mkdir(t, "/tests/verify")
			st := s.open(t, "/tests/verify", s.login())
			r, err := verify.Run(t.Context(), st, verify.Options{Writers: 16, Rounds: 20, OperationTimeout: settle})
			must(t, err)
			harness.Note(t, fmt.Sprintf("Kerberos, %s: %s", protection, r.Verdict))
			if !r.OK {
				t.Error(r.Verdict)
			}
		})
	}
}

// unreadable puts a large object, which can not be read: an error, and no other
// bytes than were written, come back.
func (s *secured) unreadable(t *testing.T) {
	t.Helper()
	s.mkdir(t, "/tests/large")
	st := s.open(t, "/tests/large", s.login())
	content := strings.Repeat("0123456789abcde\n", 64<<10)
	must(t, st.Put(t.Context(), "artifacts/a", strings.NewReader(content), int64(len(content))))
	r, err := st.Get(t.Context(), "artifacts/a")
	must(t, err)
	got, err := io.ReadAll(r)
	must(t, r.Close())
	switch {
	case err == nil && string(got) == content:
		t.Error("it can be read: the library has learnt it, and the inspection is to say so")
	case !strings.HasPrefix(content, string(got)):
		t.Errorf("%d other bytes came back: %v", len(got), err)
	case !errors.Is(err, persistence.Unknown):
		t.Error(err)
	}
	for _, f := range st.Inspect(t.Context()) {
		if f.Name == "DataNodes" && f.Status == persistence.GradeWarn && strings.Contains(f.Remedy, "dfs.data.transfer.protection") {
			return
		}
	}
	t.Error("an inspection does not tell")
}

// openFor is open for the conformance suite, which closes what it is given.
func openFor(t *testing.T, s *secured, dir string, login hdfs.Kerberos) *hdfs.Store {
	t.Helper()
	st, err := hdfs.Open(cluster.Nameservice, dir, hdfs.Options{ConfDir: s.ConfDir(), Kerberos: login})
	must(t, err)
	return st
}

// TestTicketsRunOut while a plane lives: those of the nodes are renewed, and a
// connection that is made anew later than the first tickets lasted is none the
// worse for it.
func TestTicketsRunOut(t *testing.T) {
	s := start(t, "privacy")
	const dir = "/tests/plane"
	s.mkdir(t, dir)
	st := s.open(t, dir, s.login())
	location := "hdfs://" + cluster.Nameservice + dir + "?" + url.Values{
		"confDir": {s.ConfDir()}, "kerberos.principal": {cluster.Understudy + "/_HOST@" + cluster.Realm}, "kerberos.keytab": {s.kdc.Keytab}, "kerberos.config": {s.kdc.Conf},
	}.Encode()
	p := harness.NewPlane(t, harness.Options{Nodes: 2, Storage: &harness.Storage{
		Location: func(string) string { return location },
		Register: func() ([]byte, error) {
			snap, err := st.Read(t.Context())
			return snap.Value, err
		},
	}})
	from := time.Now()
	master := p.StartAndWait(settle)
	first := p.Register()
	// More than idle connections are kept for, so that each look logs in anew.
	for time.Since(from) < 2*lifetime+lifetime/2 {
		time.Sleep(9 * time.Second)
		if v := p.Register(); v.Term != first.Term || v.Seq <= first.Seq {
			t.Fatalf("after %v the register went from %+v to %+v", time.Since(from), first, v)
		}
	}
	if !master.IsMaster() || len(p.Record().Trees) != 1 {
		t.Errorf("%s is %s, services %v", master.Name, master.State(), p.Record().Trees)
	}
	at := master.KillTree()
	if next := p.WaitStart(at, settle); p.NodeOf(next) == master {
		t.Errorf("%s serves again", master.Name)
	}
	harness.Note(t, fmt.Sprintf("Kerberos: one master for %v, with tickets of %v", time.Since(from).Round(time.Second), lifetime))
}

// TestInWords: what an operator is told of logins that fail.
func TestInWords(t *testing.T) {
	s := start(t, "authentication")
	unknown, none := s.login(), s.login()
	unknown.Principal = "stranger@" + cluster.Realm
	none.Keytab, none.Principal, none.CCache = "", "", filepath.Join(t.TempDir(), "none")
	away := s.login()
	away.Config = filepath.Join(t.TempDir(), "krb5.conf")
	text, err := os.ReadFile(s.kdc.Conf)
	must(t, err)
	must(t, os.WriteFile(away.Config, []byte(strings.Replace(string(text), fmt.Sprint(":", s.kdc.RPC), ":1", 1)), 0o600))
	simple := t.TempDir()
	must(t, cluster.Properties{"fs.defaultFS": "hdfs://localhost"}.Write(simple, "core"))

	for _, tt := range []struct {
		name      string
		authority string
		o         hdfs.Options
		kind      error
		words     []string
	}{
		{"unknown to the KDC", cluster.Nameservice, hdfs.Options{ConfDir: s.ConfDir(), Kerberos: unknown}, persistence.Denied, []string{"Kerberos", "store.hdfs.kerberos.principal"}},
		{"no tickets", cluster.Nameservice, hdfs.Options{ConfDir: s.ConfDir(), Kerberos: none}, persistence.Denied, []string{"no such file", "kinit"}},
		{"KDC away", cluster.Nameservice, hdfs.Options{ConfDir: s.ConfDir(), Kerberos: away}, persistence.Unknown, []string{"the KDC does not answer"}},
		{"no Kerberos here", fmt.Sprintf("localhost:%d", s.Names[0].RPC), hdfs.Options{ConfDir: simple, User: "root"}, persistence.Denied, []string{"this cluster wants Kerberos"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			st, err := hdfs.Open(tt.authority, "/tests", tt.o)
			must(t, err)
			defer st.Close()
			ctx, cancel := context.WithTimeout(t.Context(), settle)
			defer cancel()
			err = st.Check(ctx)
			if !errors.Is(err, tt.kind) {
				t.Errorf("%v; want %v", err, tt.kind)
			}
			for _, w := range tt.words {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("it does not say %q: %v", w, err)
				}
			}
			t.Log(err)
		})
	}
}

// newDir is a directory in memory, where there is one, that the daemons can
// write into.
func newDir(t *testing.T) string {
	t.Helper()
	base := "/dev/shm"
	if _, err := os.Stat(base); err != nil {
		base = ""
	}
	dir, err := os.MkdirTemp(base, "understudy-hdfs-") //nolint:usetesting // disks can stand still, memory does not
	must(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
