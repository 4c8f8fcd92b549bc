package config

import (
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
)

// setting is one leaf of Config.
type setting struct {
	key    string // "ha.heartbeatTimeout"
	index  []int
	kind   reflect.Type
	enum   []string
	derive string // how a zero duration is derived; empty: zero means zero
	secret bool
	live   bool // a running node takes it over
}

// section is one level of the file.
type section struct {
	prefix   string // "" or "ha."
	names    []string
	settings map[string]setting
	sections map[string]*section
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	sizeType     = reflect.TypeFor[Size]()
)

// schema is read off the tags of Config once.
var schema = sync.OnceValue(func() *section { return describe(reflect.TypeFor[Config](), "", nil, false) })

// settings lists every leaf in the order of the file.
var settings = sync.OnceValue(func() []setting { return schema().flatten() })

func describe(t reflect.Type, prefix string, index []int, live bool) *section {
	s := &section{prefix: prefix, settings: map[string]setting{}, sections: map[string]*section{}}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "" {
			continue
		}
		at := append(slices.Clone(index), i)
		s.names = append(s.names, name)
		live := live || f.Tag.Get("live") != ""
		if f.Type.Kind() == reflect.Struct {
			s.sections[name] = describe(f.Type, prefix+name+".", at, live)
			continue
		}
		leaf := setting{key: prefix + name, index: at, kind: f.Type, derive: f.Tag.Get("derive"), secret: f.Tag.Get("secret") != "", live: live}
		if e := f.Tag.Get("enum"); e != "" {
			leaf.enum = strings.Split(e, ",")
		}
		s.settings[name] = leaf
	}
	return s
}

func (s *section) flatten() []setting {
	var all []setting
	for _, name := range s.names {
		if sub := s.sections[name]; sub != nil {
			all = append(all, sub.flatten()...)
		} else {
			all = append(all, s.settings[name])
		}
	}
	return all
}

func findSetting(key string) (setting, bool) {
	for _, s := range settings() {
		if s.key == key {
			return s, true
		}
	}
	return setting{}, false
}

// Keys lists every key in the order of the file.
func Keys() []string {
	var keys []string
	for _, s := range settings() {
		keys = append(keys, s.key)
	}
	return keys
}

// envPrefix begins the name of every variable that sets a key.
const envPrefix = "UNDERSTUDY_"

// EnvName is the variable that sets a key: ha.heartbeatTimeout is set by
// UNDERSTUDY_HA_HEARTBEAT_TIMEOUT.
func EnvName(key string) string {
	var b strings.Builder
	b.WriteString(envPrefix)
	before := '.'
	for _, r := range key {
		switch {
		case r == '.':
			b.WriteByte('_')
		case unicode.IsUpper(r) && unicode.IsLower(before): // IP is one word
			b.WriteByte('_')
		}
		if r != '.' {
			b.WriteRune(unicode.ToUpper(r))
		}
		before = r
	}
	return b.String()
}

// nearest proposes the legal word closest to what was written, "" if none is
// close: at most two slips, or a third of the word.
func nearest(word string, legal []string) string {
	best, dist := "", max(2, len(word)/3)+1
	for _, l := range legal {
		if d := slips(strings.ToLower(word), strings.ToLower(l)); d < dist {
			best, dist = l, d
		}
	}
	return best
}

// slips is the Damerau-Levenshtein distance (adjacent swaps count once),
// bounded to words a person types.
func slips(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
