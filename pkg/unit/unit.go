package unit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
)

// look is the time between two looks at a unit.
const look = 50 * time.Millisecond

// systemd is a connection to the service manager.
type systemd struct{ conn *dbus.Conn }

func dial(ctx context.Context) (*systemd, error) {
	connect := dbus.NewSystemConnectionContext
	if os.Geteuid() == 0 {
		connect = dbus.NewSystemdConnectionContext
	}
	conn, err := connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w; service.systemd needs a machine that systemd has booted, and root or a rule of polkit", err)
	}
	return &systemd{conn}, nil
}

func (s *systemd) close() { s.conn.Close() }

// state is what systemd says of a unit.
type state struct {
	load, active, file string
	job                bool // something is to be done to it
	cgroup             string
	restart, result    string
	code, status       int32    // of the main process' end, as of waitid(2)
	pulls              []string // other units that would start it
}

func (s *systemd) state(ctx context.Context, name string) (state, error) {
	props, err := s.conn.GetAllPropertiesContext(ctx, name)
	if err != nil {
		return state{}, fmt.Errorf("ask systemd about %s: %w", name, err)
	}
	st := state{
		load: text(props, "LoadState"), active: text(props, "ActiveState"), file: text(props, "UnitFileState"),
		cgroup: text(props, "ControlGroup"), restart: text(props, "Restart"), result: text(props, "Result"),
	}
	if st.active == "" {
		return state{}, fmt.Errorf("systemd does not say whether %s is active", name)
	}
	st.code, _ = props["ExecMainCode"].(int32)
	st.status, _ = props["ExecMainStatus"].(int32)
	if job, ok := props["Job"].([]any); ok && len(job) > 0 {
		id, _ := job[0].(uint32)
		st.job = id != 0
	}
	for _, by := range []string{"TriggeredBy", "WantedBy", "RequiredBy", "RequisiteOf", "BoundBy", "UpheldBy"} {
		names, _ := props[by].([]string)
		st.pulls = append(st.pulls, names...)
	}
	return st, nil
}

func text(props map[string]any, name string) string {
	v, _ := props[name].(string)
	return v
}

// down reports whether systemd says that the unit is inactive for good.
func (s state) down() bool {
	return !s.job && (s.active == "inactive" || s.active == "failed")
}

// ErrUnfit says that a unit can not be the managed service.
var ErrUnfit = errors.New("the unit can not be the managed service")

// Check refuses a unit that systemd would start, or start again, by itself: then
// Understudy would not be the only one to decide where it runs. It wraps
// ErrUnfit; other errors say that systemd does not answer.
func Check(ctx context.Context, name string) error {
	s, err := dial(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	st, err := s.state(ctx, name)
	if err != nil {
		return err
	}
	return st.fit(name)
}

func (s state) fit(name string) error {
	var why string
	switch {
	case s.load != "loaded":
		why = fmt.Sprintf("systemd could not load it (%s); write the unit, and systemctl daemon-reload", s.load)
	case strings.HasPrefix(s.file, "enabled"):
		why = fmt.Sprintf("it is %s: systemd would start it at boot, on every machine; systemctl disable %s", s.file, name)
	case len(s.pulls) > 0:
		why = fmt.Sprintf("%s would start it; remove that, or stop and disable a socket, timer or path", strings.Join(s.pulls, ", "))
	case s.restart != "no":
		why = fmt.Sprintf("systemd would start it again by itself (Restart=%s); set Restart=no with systemctl edit %s: service.restart is Understudy's", s.restart, name)
	default:
		return nil
	}
	return fmt.Errorf("service.systemd: %s: %w: %s", name, ErrUnfit, why)
}

// gone reports whether nothing of the unit is alive: by systemd's word and the
// kernel's. detail says what is.
func (s *systemd) gone(ctx context.Context, name string) (gone bool, detail string, err error) {
	st, err := s.state(ctx, name)
	if err != nil {
		return false, "", err
	}
	if !st.down() {
		return false, "it is " + st.active, nil
	}
	populated, err := populated(st.cgroup)
	if err != nil {
		return false, "", err
	}
	if populated {
		return false, fmt.Sprintf("it is %s, but processes live in its control group %s", st.active, st.cgroup), nil
	}
	return true, "", nil
}
