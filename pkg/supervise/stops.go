package supervise

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/pkg/lease"
)

const (
	stopsFile = "stops.json"
	keptStops = 20
)

// Stop is one stop of the service: how long it took from the request to the
// proof that the whole tree was gone. Advisory: it lets an operator compare
// service.stopTimeout with what the service needs.
type Stop struct {
	Term   lease.Term    `json:"term"`
	At     time.Time     `json:"at"`     // wall clock, for people
	Took   time.Duration `json:"tookNs"` // nanoseconds
	Killed bool          `json:"killed"` // its main process ended by KILL, so it may have needed longer
}

// Stops reads the record of a data directory, oldest first: the latest stops
// that the daemon saw through itself. Those its guard made after the daemon's
// death are not among them.
func Stops(dataDir string) ([]Stop, error) {
	b, err := os.ReadFile(filepath.Join(dataDir, stopsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var stops []Stop
	if err == nil {
		err = json.Unmarshal(b, &stops)
	}
	if err != nil {
		return nil, fmt.Errorf("read how long the service took to stop: %w", err)
	}
	return stops, nil
}

// stopLog keeps the record. Losing it harms nobody, so it is not synced, and
// what can not be written is only logged.
type stopLog struct {
	dir   string
	mu    sync.Mutex
	stops []Stop
}

func openStopLog(dir string) *stopLog {
	stops, err := Stops(dir)
	if err != nil {
		stops = nil // damaged: the next stop begins it anew
	}
	return &stopLog{dir: dir, stops: stops}
}

func (l *stopLog) add(s Stop) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stops = append(l.stops, s)
	l.stops = l.stops[max(0, len(l.stops)-keptStops):]
	b, err := json.Marshal(l.stops)
	if err != nil {
		return err
	}
	tmp := filepath.Join(l.dir, "."+stopsFile+".tmp")
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(l.dir, stopsFile))
}

// stopBegins notes when a service that runs was first told to stop.
func (s *Supervisor) stopBegins() {
	if t := &s.term; t.alive && t.stopAt.IsZero() {
		t.stopAt = time.Now()
	}
}

// stopEnded records the stop of the present term, if there was one.
func (s *Supervisor) stopEnded() {
	t := &s.term
	if t.stopAt.IsZero() {
		return
	}
	stop := Stop{Term: t.order.Term, At: t.stopAt, Took: time.Since(t.stopAt), Killed: t.killed}
	t.stopAt = time.Time{}
	s.wg.Go(func() { // a slow disk must not hold the loop up
		if err := s.stops.add(stop); err != nil {
			s.o.Log.Debug("record of the stop", zap.Error(err))
		}
	})
}
