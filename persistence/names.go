package persistence

import (
	"fmt"
	"strings"
)

// QuoteNames shows names that anybody may have made up, and not too many of
// them, for an error's words.
func QuoteNames(names []string) string {
	const most = 3
	more := ""
	if len(names) > most {
		more = fmt.Sprintf(" and %d more", len(names)-most)
		names = names[:most]
	}
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(q, ", ") + more
}
