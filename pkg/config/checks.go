package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

// lists are the settings that are lists of sections.
var lists map[reflect.Type]listKind

func init() { // not above: reading an element asks for the map again
	lists = map[reflect.Type]listKind{
		reflect.TypeFor[[]Check]():       {listOf("check", defaultCheck), `a list of checks such as [{name: web, http: "http://127.0.0.1:8080/"}]`},
		reflect.TypeFor[[]FenceMethod](): {listOf("method", defaultFenceMethod), "a list of methods such as [{method: command, command: [/usr/sbin/fence, \"{host}\"]}]"},
	}
}

// listKind is one kind of them.
type listKind struct {
	of     func(v reflect.Value, n *yaml.Node) error
	wanted string
}

// listOf reads a list of sections, as strictly as the file around it. Each is
// called by name in messages and begins as def.
func listOf[T any](name string, def func() T) func(reflect.Value, *yaml.Node) error {
	schema := sync.OnceValue(func() *section { return describe(reflect.TypeFor[T](), "", nil, false) })
	return func(v reflect.Value, n *yaml.Node) error {
		list := make([]T, 0, len(n.Content))
		for i, item := range n.Content {
			t := def()
			if err := readElement(reflect.ValueOf(&t).Elem(), schema(), resolve(item)); err != nil {
				return fmt.Errorf("%s %d: %w", name, i+1, err)
			}
			list = append(list, t)
		}
		v.Set(reflect.ValueOf(list))
		return nil
	}
}

func readElement(v reflect.Value, schema *section, n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("must hold keys (%s), not %s", strings.Join(schema.names, ", "), describeNode(n))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i].Value
		s, known := schema.settings[key]
		switch {
		case !known:
			return fmt.Errorf("unknown key %s%s", key, suggestion(schema, key))
		case seen[key]:
			return fmt.Errorf("%s is given twice; remove one", key)
		}
		seen[key] = true
		if err := assign(v.FieldByIndex(s.index), s, resolve(n.Content[i+1])); err != nil {
			return fmt.Errorf("%s %w", key, err)
		}
	}
	return nil
}

// units of a size, largest first.
var units = []struct {
	name  string
	bytes Size
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

func parseSize(text string) (Size, error) {
	for _, u := range units {
		number, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
		if err != nil || n < 0 || Size(n) > (1<<62)/u.bytes {
			break
		}
		return Size(n) * u.bytes, nil
	}
	if text == "0" {
		return 0, nil
	}
	return 0, fmt.Errorf("%q is not a size; write e.g. 512KiB, 10MiB or 1GiB", text)
}

// String writes a size as it is read.
func (s Size) String() string {
	for _, u := range units {
		if s >= u.bytes && s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.name
		}
	}
	return "0"
}
