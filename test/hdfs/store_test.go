package hdfs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	lib "github.com/colinmarc/hdfs/v2"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/storetest"
	"github.com/understudy-ha/understudy/persistence/verify"
	"github.com/understudy-ha/understudy/test/e2e/harness"
	"github.com/understudy-ha/understudy/test/hdfs/cluster"
)

// admin gives f a client of the library alone, as the superuser.
func admin(t *testing.T, c *cluster.Cluster, f func(*lib.Client) error) {
	t.Helper()
	var addresses []string
	for _, nn := range c.NameNodes() {
		addresses = append(addresses, fmt.Sprintf("localhost:%d", nn.RPC))
	}
	client, err := lib.NewClient(lib.ClientOptions{Addresses: addresses, User: cluster.User})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close() // or it would go on renewing leases
	if err := f(client); err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	alongside(t)
	c := hdfsCluster(t)
	storetest.Run(t, func(t *testing.T) (a, b persistence.Store) {
		t.Helper()
		dir := newDir(t, c, "")
		return open(t, c, dir), open(t, c, dir)
	})
}

// TestVerify: a real HDFS passes what an operator's check asks for.
func TestVerify(t *testing.T) {
	alongside(t)
	c := hdfsCluster(t)
	st := open(t, c, newDir(t, c, ""))
	defer st.Close()
	r, err := verify.Run(t.Context(), st, verify.Options{Writers: 16, Rounds: rounds(20, 200), OperationTimeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	harness.Note(t, fmt.Sprintf("16 × %d in %v: %s", rounds(20, 200), r.Took.Round(time.Millisecond), r.Verdict))
	if !r.OK {
		t.Error(r.Verdict)
	}
}

// TestSweep: what Puts that were cut off have left is found and removed once it
// is old enough by the NameNode's clock, and nothing else is.
func TestSweep(t *testing.T) {
	alongside(t)
	c := hdfsCluster(t)
	dir := newDir(t, c, "")
	s := open(t, c, dir)
	defer s.Close()
	must(t, s.Init(t.Context(), []byte("u1.value")))
	content := strings.Repeat("x", 100<<10)
	must(t, s.Put(t.Context(), "artifacts/whole", strings.NewReader(content), -1))
	must(t, s.Put(t.Context(), "artifacts/deeper/small", strings.NewReader("x"), 1))

	ctx, cancel := context.WithCancel(t.Context())
	err := s.Put(ctx, "artifacts/cut-off", io.MultiReader(strings.NewReader(content), ending(cancel)), -1)
	if !errors.Is(err, persistence.Unknown) {
		t.Fatalf("a put that was cut off: %v, want Unknown", err)
	}
	cutOff := ""
	admin(t, c, func(client *lib.Client) error {
		entries, err := client.ReadDir(dir + "/artifacts")
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".tmp-") {
				cutOff = "artifacts/" + e.Name()
			}
		}
		return err
	})
	if cutOff == "" {
		t.Fatal("it left nothing behind: this shows nothing")
	}
	if left, err := s.Sweep(t.Context(), "artifacts/", 0, true); err != nil || len(left) != 0 {
		t.Errorf("what may still be written was swept: %v, %v", left, err)
	}
	old := []string{"artifacts/deeper/.tmp-old", "artifacts/deeper/not.tmp-old", "artifacts/.other-old", "nodes/.tmp-old"}
	admin(t, c, func(client *lib.Client) error {
		errs := []error{client.Mkdir(dir+"/nodes", 0o755)}
		for _, name := range old {
			errs = append(errs, client.CreateEmptyFile(dir+"/"+name))
		}
		yesterday := time.Now().Add(-25 * time.Hour)
		for _, name := range append(old, cutOff, "artifacts/whole", "artifacts/deeper/small") {
			errs = append(errs, client.Chtimes(dir+"/"+name, yesterday, yesterday))
		}
		return errors.Join(errs...)
	})
	for _, remove := range []bool{false, true} {
		left, err := s.Sweep(t.Context(), "artifacts/", time.Hour, remove)
		var names []string
		for _, e := range left {
			names = append(names, e.Name)
			if time.Since(e.Modified) < 24*time.Hour {
				t.Errorf("%s: left at %v", e.Name, e.Modified)
			}
		}
		if slices.Sort(names); err != nil || !slices.Equal(names, []string{cutOff, old[0]}) {
			t.Errorf("swept (removed: %t): %q, %v", remove, names, err)
		}
	}
	if left, err := s.Sweep(t.Context(), "artifacts/", time.Hour, true); err != nil || len(left) != 0 {
		t.Errorf("swept again: %v, %v", left, err)
	}
	if left, err := s.Sweep(t.Context(), "", time.Hour, false); err != nil || len(left) != 1 || left[0].Name != old[3] {
		t.Errorf("everywhere: %v, %v", left, err)
	}
	admin(t, c, func(client *lib.Client) error {
		_, err := client.Stat(dir + "/" + old[2])
		return err
	})
	for key, want := range map[string]string{"artifacts/whole": content, "artifacts/deeper/small": "x", "artifacts/deeper/not.tmp-old": ""} {
		r, err := s.Get(t.Context(), key)
		must(t, err)
		if got, err := io.ReadAll(r); err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v", key, len(got), err)
		}
		must(t, r.Close())
	}
}

// ending is a reader that ends whoever waits for it.
type ending func()

func (e ending) Read([]byte) (int, error) {
	e()
	return 0, nil
}
