package config

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/understudy-ha/understudy/pkg/election"
)

// masked stands for a secret in what Show prints.
const masked = "*****"

// Show writes the configuration as YAML, secrets masked unless revealed, and
// behind each key that is not a default where it comes from. With a timing
// (of election.Derive) derived durations are shown with their values, and
// nodeUri and the location as they work out on this host.
func (c *Config) Show(effective *election.Timing, hostname string, reveal bool) []byte {
	var b bytes.Buffer
	var open []string // the sections whose header was printed
	for _, s := range settings() {
		parts := strings.Split(s.key, ".")
		dir := parts[:len(parts)-1]
		for i, name := range dir {
			if i >= len(open) || !slices.Equal(open[:i+1], dir[:i+1]) {
				fmt.Fprintf(&b, "%s%s:\n", strings.Repeat("  ", i), name)
			}
		}
		open = dir
		fmt.Fprintf(&b, "%s%s: %s", strings.Repeat("  ", len(dir)), parts[len(parts)-1], c.show(s, effective, hostname, reveal))
		if c.IsSet(s.key) {
			fmt.Fprintf(&b, "  # %s", c.Origin(s.key))
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

func (c *Config) show(s setting, effective *election.Timing, hostname string, reveal bool) string {
	v := reflect.ValueOf(c).Elem().FieldByIndex(s.index)
	if s.kind == durationType {
		d := time.Duration(v.Int())
		if effective != nil && d == 0 && s.derive != "" {
			d = c.derived(s.key, *effective)
		}
		if d == 0 && s.derive != "" {
			return derivedWord
		}
		return formatDuration(d)
	}
	if s.kind == sizeType {
		return Size(v.Int()).String()
	}
	if s.secret && !reveal {
		if v.Kind() == reflect.Map { // the names are no secret
			m := map[string]string{}
			for _, k := range v.MapKeys() {
				m[k.String()] = masked
			}
			v = reflect.ValueOf(m)
		} else if !v.IsZero() {
			return flow(masked)
		}
	}
	if effective != nil && v.Kind() == reflect.String && v.IsZero() {
		switch s.key {
		case "nodeUri":
			return flow(c.URI(hostname, 0))
		case "persistenceDir":
			if loc, err := c.Location(); err == nil {
				return flow(loc.String())
			}
		}
	}
	return flow(v.Interface())
}

func (c *Config) derived(key string, t election.Timing) time.Duration {
	switch key {
	case "ha.heartbeatTimeout":
		return t.Timeout
	case "ha.heartbeatInterval":
		return t.Heartbeat
	case "ha.standbyHeartbeatInterval":
		return t.StandbyHeartbeat
	case "ha.pollInterval":
		return t.Poll
	case "service.stopTimeout":
		return t.Stop
	case "store.operationTimeout":
		return t.Operation
	case "guard.stopTimeout":
		return c.GuardStopTimeout(t.Stop)
	default:
		return 0
	}
}

// flow writes a value on one line.
func flow(v any) string {
	var n yaml.Node
	if err := n.Encode(v); err != nil {
		return fmt.Sprintf("%q", fmt.Sprint(v)) // only plain values: can not happen
	}
	if n.Kind == yaml.ScalarNode && n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		n.Style = yaml.DoubleQuotedStyle
	}
	n.Style |= yaml.FlowStyle
	for _, item := range n.Content {
		if item.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
			item.Style = yaml.DoubleQuotedStyle
		}
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	if err := enc.Encode(&n); err != nil {
		return fmt.Sprintf("%q", fmt.Sprint(v))
	}
	return strings.ReplaceAll(strings.TrimRight(b.String(), "\n"), "\n", " ")
}
