package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

// checkSchema is that of one element of service.checks.
var checkSchema = sync.OnceValue(func() *section { return describe(reflect.TypeFor[Check](), "", nil, false) })

// checkList reads service.checks, as strictly as the file around it.
func checkList(n *yaml.Node) ([]Check, error) {
	list := make([]Check, 0, len(n.Content))
	for i, item := range n.Content {
		c, err := readCheck(resolve(item))
		if err != nil {
			return nil, fmt.Errorf("check %d: %w", i+1, err)
		}
		list = append(list, c)
	}
	return list, nil
}

func readCheck(n *yaml.Node) (Check, error) {
	c := defaultCheck()
	if n.Kind != yaml.MappingNode {
		return c, fmt.Errorf("must hold keys (%s), not %s", strings.Join(checkSchema().names, ", "), describeNode(n))
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i].Value
		s, known := checkSchema().settings[key]
		switch {
		case !known:
			return c, fmt.Errorf("unknown key %s%s", key, suggestion(checkSchema(), key))
		case seen[key]:
			return c, fmt.Errorf("%s is given twice; remove one", key)
		}
		seen[key] = true
		v := reflect.ValueOf(&c).Elem().FieldByIndex(s.index)
		if err := assign(v, s, resolve(n.Content[i+1])); err != nil {
			return c, fmt.Errorf("%s %w", key, err)
		}
	}
	return c, nil
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
