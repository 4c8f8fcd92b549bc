package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxFileSize bounds a configuration file, in bytes.
const maxFileSize = 1 << 20

// Override sets one key to the text of a value; lists and maps are written as
// in YAML: [sleep, 60].
type Override struct {
	Key   string // "ha.heartbeatTimeout"
	Value string
	From  string // for messages: "flag --store", "brooklyn.cfg:3"
}

// Sources says where settings come from, weakest first.
type Sources struct {
	File     string     // YAML; empty: none; "-": standard input
	Brooklyn []Override // of LoadBrooklyn
	Environ  []string   // as os.Environ
	Flags    []Override
}

// Warnings are things an operator should know although the configuration is
// legal, one line each.
type Warnings []string

// Problem is one thing that is wrong.
type Problem struct {
	Where string // "understudy.yaml:3", a variable, a flag; empty when nothing named the key
	Key   string // empty when it is not about a key
	Text  string // what is wrong and what would be right
}

func (p Problem) String() string {
	s := p.Text
	if p.Key != "" {
		s = p.Key + ": " + s
	}
	if p.Where != "" {
		s = p.Where + ": " + s
	}
	return s
}

// Error is every problem found, one line each.
type Error struct{ Problems []Problem }

func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Load reads and validates a configuration: the defaults, then the file at
// path (none if empty), the environment and the overrides of flags. The error
// is an *Error.
func Load(path string, environ []string, overrides []Override) (*Config, Warnings, error) {
	return LoadFrom(Sources{File: path, Environ: environ, Flags: overrides})
}

// LoadFrom is Load with every kind of source.
func LoadFrom(src Sources) (*Config, Warnings, error) {
	c, warn, err := Read(src)
	if err != nil {
		return nil, warn, err
	}
	more, err := c.Validate()
	warn = append(warn, more...)
	if err != nil {
		return nil, warn, err
	}
	return c, warn, nil
}

// Read does as LoadFrom but leaves out Validate: for commands that need some
// of the settings and do not start a node.
func Read(src Sources) (*Config, Warnings, error) {
	l := &loader{c: Default()}
	l.c.origins = map[string]string{}
	if src.File != "" {
		l.file(src.File)
	}
	for _, o := range src.Brooklyn {
		l.override(o)
	}
	l.environ(src.Environ)
	for _, o := range src.Flags {
		l.override(o)
	}
	if len(l.problems) > 0 {
		return nil, l.warnings, &Error{l.problems}
	}
	return l.c, l.warnings, nil
}

type loader struct {
	c        *Config
	problems []Problem
	warnings Warnings
}

func (l *loader) problem(where, key, format string, args ...any) {
	l.problems = append(l.problems, Problem{where, key, fmt.Sprintf(format, args...)})
}

func (l *loader) file(path string) {
	name, text, err := slurp(path)
	if err != nil {
		l.problem(name, "", "%v", err)
		return
	}
	l.yaml(name, text)
	if fi, err := os.Stat(path); err == nil && path != "-" && fi.Mode().Perm()&0o044 != 0 && l.c.Server.Auth.Password != "" {
		l.warnings = append(l.warnings, fmt.Sprintf("%s: server.auth.password can be read by every user of this machine: chmod 600 %s, or use server.auth.passwordFile", l.c.Origin("server.auth.password"), name))
	}
}

// slurp reads a file of bounded size and returns the name to show for it.
func slurp(path string) (string, []byte, error) {
	name, in := path, os.Stdin
	if path == "-" {
		name = "<stdin>"
	} else {
		f, err := os.Open(path)
		if err != nil {
			var pe *os.PathError
			if errors.As(err, &pe) {
				err = pe.Err // the name is printed in front anyway
			}
			return name, nil, err
		}
		defer func() { _ = f.Close() }()
		if fi, err := f.Stat(); err == nil && fi.IsDir() {
			return name, nil, errors.New("is a directory; name the file in it")
		}
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxFileSize+1))
	if err != nil {
		return name, nil, err
	}
	if len(text) > maxFileSize {
		return name, nil, fmt.Errorf("is larger than %d bytes; this is not a configuration file", maxFileSize)
	}
	return name, text, nil
}

var yamlErrorLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)$`)

func (l *loader) yaml(name string, text []byte) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return // an empty file: all defaults
	}
	if err == nil {
		var second yaml.Node
		if again := dec.Decode(&second); again == nil {
			l.problem(at(name, second.Line), "", "a second YAML document begins here; one file holds one document")
			return
		} else if !errors.Is(again, io.EOF) {
			err = again
		}
	}
	if err != nil {
		m := yamlErrorLine.FindStringSubmatch(strings.SplitN(err.Error(), "\n", 2)[0])
		where := name
		if m[1] != "" {
			where += ":" + m[1]
		}
		l.problem(where, "", "not YAML: %s", m[2])
		return
	}
	if len(doc.Content) == 1 && !isNull(doc.Content[0]) {
		l.section(name, schema(), doc.Content[0])
	}
}

func at(name string, line int) string { return name + ":" + strconv.Itoa(line) }

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// resolve follows an alias; yaml.v3 has refused aliases of what is not there.
func resolve(n *yaml.Node) *yaml.Node {
	for range 16 {
		if n.Kind != yaml.AliasNode || n.Alias == nil {
			break
		}
		n = n.Alias
	}
	return n
}

func (l *loader) section(name string, s *section, n *yaml.Node) {
	line := n.Line
	n = resolve(n)
	title := strings.TrimSuffix(s.prefix, ".")
	if n.Kind != yaml.MappingNode {
		l.problem(at(name, line), title, "must hold keys (%s), not %s", strings.Join(s.names, ", "), describeNode(n))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			l.problem(at(name, k.Line), title, "a key must be a plain word, not %s", describeNode(k))
			continue
		}
		key := s.prefix + k.Value
		if first, dup := seen[k.Value]; dup {
			l.problem(at(name, k.Line), key, "given twice, first in line %d; remove one", first)
			continue
		}
		seen[k.Value] = k.Line
		if sub := s.sections[k.Value]; sub != nil {
			if !isNull(resolve(v)) { // a section whose keys are all commented out
				l.section(name, sub, v)
			}
			continue
		}
		set, known := s.settings[k.Value]
		if !known {
			l.problem(at(name, k.Line), key, "unknown key%s", suggestion(s, k.Value))
			continue
		}
		l.set(at(name, k.Line), set, resolve(v))
	}
}

// suggestion says which key was probably meant: a similar one of the same
// section, the same word in another section, else what the section takes.
func suggestion(s *section, word string) string {
	if near := nearest(word, s.names); near != "" {
		return fmt.Sprintf("; did you mean %s%s?", s.prefix, near)
	}
	last := word[strings.LastIndexByte(word, '.')+1:]
	for _, key := range Keys() {
		if strings.EqualFold(key[strings.LastIndexByte(key, '.')+1:], last) {
			return fmt.Sprintf("; did you mean %s?", key)
		}
	}
	where := "at the top level"
	if s.prefix != "" {
		where = "in " + strings.TrimSuffix(s.prefix, ".")
	}
	return fmt.Sprintf("; legal %s: %s", where, strings.Join(s.names, ", "))
}

func (l *loader) environ(environ []string) {
	byName := map[string]string{}
	for _, key := range Keys() {
		byName[EnvName(key)] = key
	}
	var names []string
	for n := range byName {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) || value == "" {
			continue // set to nothing is how wrappers leave a variable out
		}
		if key, ok := byName[name]; ok {
			l.override(Override{key, value, "environment " + name})
			continue
		}
		// Only a likely slip is worth a word: other variables of this prefix
		// belong to the client, or are Kubernetes' links to a service.
		if near := nearest(name, names); near != "" && slips(name, near) <= 2 {
			l.warnings = append(l.warnings, fmt.Sprintf("environment %s sets nothing; did you mean %s?", name, near))
		}
	}
}

func (l *loader) override(o Override) {
	set, ok := findSetting(o.Key)
	if !ok {
		text := "unknown key"
		if near := nearest(o.Key, Keys()); near != "" {
			text += "; did you mean " + near + "?"
		} else {
			text += suggestion(schema(), o.Key)
		}
		l.problem(o.From, o.Key, "%s", text)
		return
	}
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: o.Value}
	if k := set.kind.Kind(); k == reflect.Slice || k == reflect.Map {
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(o.Value), &doc); err != nil || len(doc.Content) != 1 {
			l.problem(o.From, o.Key, "%q is not %s", o.Value, wanted(set))
			return
		}
		n = resolve(doc.Content[0])
	} else if k != reflect.String {
		n.Tag = "" // "3" and "true" are what they look like
	}
	l.set(o.From, set, n)
}

// set stores one value, or says what would be right.
func (l *loader) set(where string, s setting, n *yaml.Node) {
	v := reflect.ValueOf(l.c).Elem().FieldByIndex(s.index)
	if err := assign(v, s, n); err != nil {
		l.problem(where, s.key, "%v", err)
		return
	}
	l.c.origins[s.key] = where
}

func assign(v reflect.Value, s setting, n *yaml.Node) error {
	mismatch := func() error { return fmt.Errorf("must be %s, not %s", wanted(s), describeNode(n)) }
	if isNull(n) {
		return fmt.Errorf("has no value; must be %s (or remove the key)", wanted(s))
	}
	if read := lists[s.kind]; read.of != nil {
		if n.Kind != yaml.SequenceNode {
			return mismatch()
		}
		return read.of(v, n)
	}
	if s.kind.Kind() == reflect.Slice {
		list, ok := scalars(n)
		if n.Kind != yaml.SequenceNode || !ok {
			return mismatch()
		}
		v.Set(reflect.ValueOf(list))
		return nil
	}
	if s.kind.Kind() == reflect.Map {
		m, err := stringMap(n)
		if err != nil {
			return err
		}
		if m == nil {
			return mismatch()
		}
		v.Set(reflect.ValueOf(m))
		return nil
	}
	if n.Kind != yaml.ScalarNode {
		return mismatch()
	}
	text := n.Value
	switch {
	case s.kind == durationType:
		d, err := parseDuration(text, s)
		if err != nil {
			return err
		}
		v.SetInt(int64(d))
	case s.kind == sizeType:
		b, err := parseSize(text)
		if err != nil {
			return err
		}
		v.SetInt(int64(b))
	case s.kind.Kind() == reflect.Bool:
		if n.ShortTag() != "!!bool" {
			return mismatch()
		}
		v.SetBool(strings.EqualFold(text, "true"))
	case s.kind.Kind() == reflect.Int:
		i, err := strconv.Atoi(text)
		if err != nil || n.ShortTag() != "!!int" {
			return mismatch()
		}
		v.SetInt(int64(i))
	case len(s.enum) > 0:
		word, ok := enumWord(text, s)
		if !ok {
			near := ""
			if w := nearest(text, s.enum); w != "" {
				near = "; did you mean " + w + "?"
			}
			return fmt.Errorf("%q is not one of %s%s", text, strings.Join(s.enum, ", "), near)
		}
		v.SetString(word)
	default:
		v.SetString(text)
	}
	return nil
}

func enumWord(text string, s setting) (string, bool) {
	if s.kind == reflect.TypeFor[Signal]() && len(text) > 3 && strings.EqualFold(text[:3], "SIG") {
		text = text[3:]
	}
	i := slices.IndexFunc(s.enum, func(w string) bool { return strings.EqualFold(w, text) })
	if i < 0 {
		return "", false
	}
	return s.enum[i], true
}

// derivedWord is what a duration says that is to be derived from others.
const derivedWord = "derived"

func parseDuration(text string, s setting) (time.Duration, error) {
	if strings.EqualFold(text, derivedWord) {
		if s.derive == "" {
			return 0, fmt.Errorf("is not derived from anything; must be %s", wanted(s))
		}
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		if _, bare := strconv.ParseFloat(text, 64); bare == nil {
			return 0, fmt.Errorf("%s has no unit; write %ss or %sms", text, text, text)
		}
		return 0, fmt.Errorf("%q is not a duration; must be %s", text, wanted(s))
	}
	if d < 0 {
		return 0, fmt.Errorf("%s is negative", text)
	}
	if d == 0 && s.derive != "" {
		return 0, fmt.Errorf("0 is not possible; must be %s", wanted(s))
	}
	return d, nil
}

// scalars returns the texts of a list as written: 60 is "60".
func scalars(n *yaml.Node) ([]string, bool) {
	list := make([]string, 0, len(n.Content))
	for _, item := range n.Content {
		item = resolve(item)
		if item.Kind != yaml.ScalarNode || isNull(item) {
			return nil, false
		}
		list = append(list, item.Value)
	}
	return list, true
}

// stringMap returns nil when n is not a map of words.
func stringMap(n *yaml.Node) (map[string]string, error) {
	if n.Kind != yaml.MappingNode {
		return nil, nil
	}
	m := map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], resolve(n.Content[i+1])
		if k.Kind != yaml.ScalarNode || v.Kind != yaml.ScalarNode || isNull(v) {
			return nil, fmt.Errorf("the value of %s must be a word, not %s", k.Value, describeNode(v))
		}
		if _, dup := m[k.Value]; dup {
			return nil, fmt.Errorf("%s is given twice; remove one", k.Value)
		}
		m[k.Value] = v.Value
	}
	return m, nil
}

// wanted describes the values a key takes.
func wanted(s setting) string {
	switch {
	case s.kind == durationType && s.derive != "":
		return `a duration such as 500ms, 30s or 1m30s, or the word "derived"`
	case s.kind == durationType:
		return "a duration such as 500ms, 30s or 1m30s"
	case s.kind == sizeType:
		return "a size such as 512KiB, 10MiB or 1GiB"
	case lists[s.kind].wanted != "":
		return lists[s.kind].wanted
	case len(s.enum) > 0:
		return "one of " + strings.Join(s.enum, ", ")
	case s.kind.Kind() == reflect.Bool:
		return "true or false"
	case s.kind.Kind() == reflect.Int:
		return "a whole number"
	case s.kind.Kind() == reflect.Slice:
		return "a list of words such as [/usr/bin/prog, --flag]"
	case s.kind.Kind() == reflect.Map:
		return "a map of words such as {NAME: value}"
	default:
		return "a text"
	}
}

func describeNode(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a map of keys"
	case yaml.SequenceNode:
		return "a list"
	case yaml.DocumentNode, yaml.AliasNode:
		return "an alias"
	case yaml.ScalarNode:
	}
	if isNull(n) {
		return "nothing"
	}
	if len(n.Value) > 60 {
		return strconv.Quote(n.Value[:60]) + "…"
	}
	return strconv.Quote(n.Value)
}
