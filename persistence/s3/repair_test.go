package s3_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/s3"
)

func TestRepair(t *testing.T) {
	s := serve(t)
	st := s.open(t, s3.Options{})
	if _, err := st.Parts(t.Context()); !errors.Is(err, persistence.Absent) {
		t.Errorf("no register: %v", err)
	}
	if err := st.Init(t.Context(), []byte("u1.old")); err != nil {
		t.Fatal(err)
	}
	before, err := st.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const garbage = "Somebody's notes.\n"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.URL+"/"+bucket+"/"+prefix+"/lease", strings.NewReader(garbage))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil || res.StatusCode != http.StatusOK {
		t.Fatal(err, res.Status)
	}
	defer http.DefaultClient.CloseIdleConnections()
	if _, err := st.Read(t.Context()); !errors.Is(err, persistence.Torn) {
		t.Fatalf("garbage in the register's place: %v", err)
	}
	if parts, err := st.Parts(t.Context()); err != nil || len(parts) != 1 || string(parts[0]) != garbage {
		t.Errorf("%q, %v", parts, err)
	}
	aside, err := st.Replace(t.Context(), []byte("u1.new"))
	if err != nil {
		t.Fatal(err)
	}
	if snap, err := st.Read(t.Context()); err != nil || string(snap.Value) != "u1.new" {
		t.Errorf("%q, %v", snap.Value, err)
	}
	if _, err := st.CAS(t.Context(), before.Version, []byte("u1.late")); !errors.Is(err, persistence.Conflict) {
		t.Errorf("a swap from what was there before: %v", err)
	}
	kept, err := st.Sub(aside)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kept.Read(t.Context()); !errors.Is(err, persistence.Torn) {
		t.Errorf("what was there is not kept: %v", err)
	}
	es, err := st.Survey(t.Context())
	if err != nil || len(es) != 2 {
		t.Fatalf("%+v, %v", es, err)
	}
	for _, e := range es {
		if (e.Name != "lease" && e.Name != aside) || time.Since(e.Modified).Abs() > time.Minute {
			t.Errorf("%+v", e)
		}
	}
}
