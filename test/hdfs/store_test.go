package hdfs_test

import (
	"fmt"
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
