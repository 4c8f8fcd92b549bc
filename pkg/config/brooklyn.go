package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
)

// brooklynKeys maps what is read of Apache Brooklyn's files to the keys it
// sets. Of two that set one key the former wins, whichever file it is in:
// Brooklyn's launcher file overrides its properties.
var brooklynKeys = []struct {
	theirs, ours string
	duration     bool
}{
	{theirs: "highAvailabilityMode", ours: "highAvailabilityMode"},
	{theirs: "persistMode", ours: "persistMode"},
	{theirs: "persistenceDir", ours: "persistenceDir"},
	{theirs: "brooklyn.persistence.dir", ours: "persistenceDir"},
	{theirs: "brooklyn.ha.heartbeatTimeout", ours: "ha.heartbeatTimeout", duration: true},
	{theirs: "brooklyn.ha.pollPeriod", ours: "ha.heartbeatInterval", duration: true},
}

// LoadBrooklyn reads Apache Brooklyn's own files: the launcher's
// (org.apache.brooklyn.osgilauncher.cfg) and the properties (brooklyn.cfg);
// either path may be empty. Both are read in Java's properties syntax. Each
// key that is not used draws a warning. The error is an *Error.
//
// Durations are a bare number of milliseconds or a number with a unit, "30s",
// "30 seconds", "1m30s". A relative directory and one that begins with "~/"
// are what Brooklyn makes of them: beneath ~/.brooklyn, beneath the home
// directory.
func LoadBrooklyn(cfgPath, propsPath string) ([]Override, Warnings, error) {
	var (
		warn     Warnings
		problems []Problem
		found    = map[string]property{} // by their key
	)
	for _, path := range []string{cfgPath, propsPath} {
		if path == "" {
			continue
		}
		name, text, err := slurp(path)
		if err != nil {
			problems = append(problems, Problem{name, "", err.Error()})
			continue
		}
		props, err := parseProperties(name, string(text))
		if err != nil {
			var e *Error
			if errors.As(err, &e) {
				problems = append(problems, e.Problems...)
			}
			continue
		}
		seen := map[string]string{}
		for _, p := range props {
			if !usesBrooklynKey(p.key) {
				warn = append(warn, fmt.Sprintf("%s: %s is not used by Understudy", p.where, p.key))
				continue
			}
			if first := seen[p.key]; first != "" {
				warn = append(warn, fmt.Sprintf("%s: %s replaces the one at %s", p.where, p.key, first))
			} else if prior, ok := found[p.key]; ok {
				warn = append(warn, fmt.Sprintf("%s: %s is not used: %s sets it already", p.where, p.key, prior.where))
				continue
			}
			seen[p.key] = p.where
			found[p.key] = p
		}
	}
	var overrides []Override
	set := map[string]property{} // by our key
	for _, k := range brooklynKeys {
		p, ok := found[k.theirs]
		if !ok {
			continue
		}
		if prior, dup := set[k.ours]; dup {
			warn = append(warn, fmt.Sprintf("%s: %s is not used: %s at %s comes first", p.where, p.key, prior.key, prior.where))
			continue
		}
		set[k.ours] = p
		value := p.value
		switch {
		case value == "":
			warn = append(warn, fmt.Sprintf("%s: %s is empty and not used", p.where, p.key))
			continue
		case k.duration:
			d, err := parseBrooklynDuration(value)
			if err != nil {
				problems = append(problems, Problem{p.where, p.key, err.Error()})
				continue
			}
			value = d.String()
		case k.ours == "persistenceDir":
			dir, err := brooklynDir(value)
			if err != nil {
				problems = append(problems, Problem{p.where, p.key, err.Error()})
				continue
			}
			if dir != value {
				warn = append(warn, fmt.Sprintf("%s: %s %s is taken as %s", p.where, p.key, value, dir))
			}
			value = dir
		}
		from := p.where
		if k.theirs != k.ours {
			from += ": " + k.theirs
		}
		overrides = append(overrides, Override{Key: k.ours, Value: value, From: from})
	}
	if len(problems) > 0 {
		return nil, warn, &Error{problems}
	}
	return overrides, warn, nil
}

func usesBrooklynKey(key string) bool {
	for _, k := range brooklynKeys {
		if k.theirs == key {
			return true
		}
	}
	return false
}

func brooklynDir(dir string) (string, error) {
	if filepath.IsAbs(dir) || strings.Contains(dir, "://") {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("%q depends on the home directory, which is not known (%w); write an absolute path", dir, err)
	}
	if rest, ok := strings.CutPrefix(dir, "~/"); ok {
		return filepath.Join(home, rest), nil
	}
	return filepath.Join(home, ".brooklyn", dir), nil
}

var (
	brooklynPart  = regexp.MustCompile(`^\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]+)`)
	brooklynUnits = map[string]time.Duration{
		"ms": time.Millisecond, "milli": time.Millisecond, "millis": time.Millisecond, "millisecond": time.Millisecond, "milliseconds": time.Millisecond,
		"s": time.Second, "sec": time.Second, "secs": time.Second, "second": time.Second, "seconds": time.Second,
		"m": time.Minute, "min": time.Minute, "mins": time.Minute, "minute": time.Minute, "minutes": time.Minute,
		"h": time.Hour, "hr": time.Hour, "hrs": time.Hour, "hour": time.Hour, "hours": time.Hour,
		"d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
	}
)

// maxBrooklynDuration keeps the arithmetic far from overflow.
const maxBrooklynDuration = 365 * 24 * time.Hour

func parseBrooklynDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a duration; must be milliseconds (30000) or a number with a unit (30s, 1m30s, 30 seconds)", s)
	if ms, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64); err == nil {
		if ms <= 0 || ms > maxBrooklynDuration.Milliseconds() {
			return 0, bad
		}
		return time.Duration(ms) * time.Millisecond, nil
	}
	var sum time.Duration
	for rest := strings.TrimSpace(s); rest != ""; {
		m := brooklynPart.FindStringSubmatch(rest)
		if m == nil {
			return 0, bad
		}
		unit, ok := brooklynUnits[strings.ToLower(m[2])]
		n, err := strconv.ParseFloat(m[1], 64)
		if !ok || err != nil || n*float64(unit) > float64(maxBrooklynDuration) {
			return 0, bad
		}
		sum += time.Duration(n * float64(unit))
		rest = strings.TrimLeft(rest[len(m[0]):], " \t,")
	}
	if sum <= 0 || sum > maxBrooklynDuration {
		return 0, bad
	}
	return sum, nil
}

type property struct{ key, value, where string }

// parseProperties reads Java's properties syntax: '#' and '!' begin comments;
// a key ends at the first unescaped '=', ':' or blank; a line that ends in an
// odd number of backslashes goes on in the next, whose indentation is dropped;
// \t \n \r \f and \uXXXX are escapes, any other escaped character is itself.
func parseProperties(name, text string) ([]property, error) {
	var props []property
	lines := strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text), "\n")
	for i := 0; i < len(lines); i++ {
		line, start := strings.TrimLeft(lines[i], " \t\f"), i+1
		if line == "" || line[0] == '#' || line[0] == '!' {
			continue
		}
		for goesOn(line) {
			line = line[:len(line)-1]
			if i++; i >= len(lines) {
				break
			}
			line += strings.TrimLeft(lines[i], " \t\f")
		}
		key, value := splitProperty(line)
		where := at(name, start)
		key, err := unescape(key)
		if err == nil {
			value, err = unescape(value)
		}
		if err != nil {
			return nil, &Error{[]Problem{{where, "", err.Error()}}}
		}
		props = append(props, property{key, strings.TrimRight(value, " \t\f"), where})
	}
	return props, nil
}

func goesOn(line string) bool {
	n := len(line) - len(strings.TrimRight(line, `\`))
	return n%2 == 1
}

func splitProperty(line string) (key, value string) {
	end := len(line)
	for i := 0; i < len(line); i++ {
		if line[i] == '\\' {
			i++
			continue
		}
		if strings.IndexByte("=: \t\f", line[i]) >= 0 {
			end = i
			break
		}
	}
	rest := strings.TrimLeft(line[end:], " \t\f")
	if rest != "" && (rest[0] == '=' || rest[0] == ':') {
		rest = strings.TrimLeft(rest[1:], " \t\f")
	}
	return line[:end], rest
}

func unescape(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch s[i] {
		case 't':
			b.WriteByte('\t')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 'f':
			b.WriteByte('\f')
		case 'u':
			r, err := codeUnit(s, i)
			if err != nil {
				return "", err
			}
			i += 4
			if utf16.IsSurrogate(r) && strings.HasPrefix(s[i+1:], `\u`) {
				if low, err := codeUnit(s, i+2); err == nil {
					r = utf16.DecodeRune(r, low)
					i += 6
				}
			}
			b.WriteRune(r)
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), nil
}

// codeUnit reads the four digits behind the 'u' at s[i].
func codeUnit(s string, i int) (rune, error) {
	if i+5 > len(s) {
		return 0, fmt.Errorf(`malformed \uXXXX escape in %q: four hexadecimal digits belong there`, s)
	}
	n, err := strconv.ParseUint(s[i+1:i+5], 16, 16)
	if err != nil {
		return 0, fmt.Errorf(`malformed \uXXXX escape in %q: four hexadecimal digits belong there`, s)
	}
	return rune(n), nil
}
