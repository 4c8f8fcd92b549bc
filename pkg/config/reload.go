package config

import (
	"reflect"
	"slices"
	"time"
)

// Reload returns the configuration that a running node goes on with when next
// is what it would start with now: of next, what can be taken over, and for the
// rest what it has. restart lists the keys that differ and were not taken.
func (c *Config) Reload(next *Config) (merged *Config, changed, restart []string) {
	out := *c
	out.origins = map[string]string{}
	for _, s := range settings() {
		from := c
		had, has := c.at(s), next.at(s)
		if same := reflect.DeepEqual(had.Interface(), has.Interface()); !same && s.live {
			changed = append(changed, s.key)
		} else if !same {
			restart = append(restart, s.key)
		}
		if s.live {
			out.at(s).Set(has)
			from = next
		}
		if o, ok := from.origins[s.key]; ok {
			out.origins[s.key] = o
		}
	}
	return &out, changed, restart
}

func (c *Config) at(s setting) reflect.Value {
	return reflect.ValueOf(c).Elem().FieldByIndex(s.index)
}

// Value is the value of a key for people and clients: durations and sizes as
// they are written, a derived one as the word "derived", secrets masked. It
// reports false for a key that does not exist or is empty.
func (c *Config) Value(key string) (any, bool) {
	s, ok := findSetting(key)
	if !ok {
		return nil, false
	}
	v := c.at(s)
	switch {
	case s.kind == durationType && v.Int() == 0 && s.derive != "":
		return derivedWord, true
	case s.kind == durationType:
		return formatDuration(time.Duration(v.Int())), true
	case s.kind == sizeType:
		return Size(v.Int()).String(), true
	case empty(v):
		return nil, false
	case s.secret:
		return masked, true
	case lists[s.kind].of != nil:
		return flow(v.Interface()), true
	}
	return v.Interface(), true
}

// empty reports whether there is nothing to show. false and 0 are values.
func empty(v reflect.Value) bool {
	return slices.Contains([]reflect.Kind{reflect.String, reflect.Slice, reflect.Map}, v.Kind()) && v.Len() == 0
}

// Live lists the keys that a running node takes over from a changed
// configuration.
func Live() []string {
	var keys []string
	for _, s := range settings() {
		if s.live {
			keys = append(keys, s.key)
		}
	}
	return keys
}
