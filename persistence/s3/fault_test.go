package s3_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/persistence/s3"
)

// A write of the register is sent once, whatever comes back.
func TestRegisterIsSentOnce(t *testing.T) {
	s := serve(t)
	st := s.open(t, s3.Options{})
	if err := st.Init(t.Context(), []byte("u1.0")); err != nil {
		t.Fatal(err)
	}
	snap, err := st.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.through(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		http.Error(w, "busy", http.StatusServiceUnavailable)
	})
	before := s.seen.Load()
	if _, err := st.CAS(t.Context(), snap.Version, []byte("u1.1")); !errors.Is(err, persistence.Unknown) {
		t.Errorf("CAS answered 503: %v; want Unknown", err)
	}
	if _, err := st.Read(t.Context()); !errors.Is(err, persistence.Unknown) {
		t.Errorf("read answered 503: %v; want Unknown", err)
	}
	if n := s.seen.Load() - before; n != 2 {
		t.Errorf("%d requests for one CAS and one read, want 2", n)
	}
}
