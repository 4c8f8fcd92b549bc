package lease

import (
	"fmt"
	"slices"
	"strings"
)

// Mode is what an operator asks of a node.
type Mode string

// The modes, as they are written on the wire and in configuration.
const (
	ModeAuto       Mode = "AUTO"
	ModeMaster     Mode = "MASTER"
	ModeStandby    Mode = "STANDBY"
	ModeHotStandby Mode = "HOT_STANDBY"
	ModeHotBackup  Mode = "HOT_BACKUP"
	ModeDisabled   Mode = "DISABLED"
)

// Modes lists every mode in the order documents name them.
func Modes() []Mode {
	return []Mode{ModeAuto, ModeMaster, ModeStandby, ModeHotStandby, ModeHotBackup, ModeDisabled}
}

// ParseMode reads a mode, whatever its case.
func ParseMode(s string) (Mode, error) {
	m := Mode(strings.ToUpper(strings.TrimSpace(s)))
	if !slices.Contains(Modes(), m) {
		return "", fmt.Errorf("unknown mode %q: must be one of AUTO, MASTER, STANDBY, HOT_STANDBY, HOT_BACKUP, DISABLED", s)
	}
	return m, nil
}

// State is what a node is, in the words of the wire.
type State string

// The states, as Apache Brooklyn names them.
const (
	StateInitializing State = "INITIALIZING"
	StateStandby      State = "STANDBY"
	StateHotStandby   State = "HOT_STANDBY"
	StateHotBackup    State = "HOT_BACKUP"
	StateMaster       State = "MASTER"
	StateFailed       State = "FAILED"
	StateTerminated   State = "TERMINATED"
)

// States lists every state in the order documents name them.
func States() []State {
	return []State{
		StateInitializing, StateStandby, StateHotStandby, StateHotBackup, StateMaster, StateFailed, StateTerminated,
	}
}
