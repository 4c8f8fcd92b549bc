package support

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Masked stands for what was taken out.
const Masked = "*****"

// shortest is the length of the shortest value that is looked for. Shorter ones
// would take every third word along; telling names cover them.
const shortest = 6

// Scrubber takes secrets out of text.
type Scrubber struct{ known [][]byte }

// NewScrubber knows the given values as secrets, besides what looks like one.
func NewScrubber(values ...string) *Scrubber {
	s := &Scrubber{}
	for _, v := range values {
		v = strings.TrimSpace(v)
		if len(v) < shortest || slices.Contains([]string{"true", "false", "null"}, v) {
			continue
		}
		for _, form := range forms(v) {
			s.known = append(s.known, []byte(form))
		}
	}
	// The longest first: one secret may begin with another.
	slices.SortFunc(s.known, func(a, b []byte) int { return cmp.Or(cmp.Compare(len(b), len(a)), bytes.Compare(a, b)) })
	s.known = slices.CompactFunc(s.known, bytes.Equal)
	return s
}

// forms are the ways in which a value may be written.
func forms(v string) []string {
	out := []string{v, url.QueryEscape(v), url.PathEscape(v), base64.StdEncoding.EncodeToString([]byte(v)), base64.URLEncoding.EncodeToString([]byte(v))}
	if b, err := json.Marshal(v); err == nil {
		out = append(out, strings.Trim(string(b), `"`))
	}
	return out
}

// telling are the words that make a name that of a secret.
const telling = `pass(?:word|wd|phrase)?|secret|token|credential|api[_-]?key|access[_-]?key|private[_-]?key|authorization|cookie|auth[_-]?key`

// patterns find what looks like a secret; the first group, if any, is kept.
var patterns = []*regexp.Regexp{
	regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)`),
	regexp.MustCompile(`(?i)(authorization["']?\s*[=:]\s*)["']?[^\r\n"']+`),
	regexp.MustCompile(`(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9+/=._~-]{4,}`),
	regexp.MustCompile(`\$2[abxy]\$\d\d\$[./A-Za-z0-9]{20,}`),
	regexp.MustCompile(`\bust_[A-Za-z0-9_]{8,}`),
	regexp.MustCompile(`\b(?:AKIA|ASIA)[A-Z0-9]{16}\b`),
	regexp.MustCompile(`([a-z][a-z0-9+.-]*://)[^/\s:@"']*:[^/\s@"']+@`),
	// name=value, name: value, "name":"value", --name value, in any case and with
	// what stands before and after the telling word in the name.
	regexp.MustCompile(`(?i)((?:[\w.-]*(?:` + telling + `)[\w.-]*)["']?\s*[=:]\s*)(?:"(?:[^"\\\n]|\\.)+"|'[^'\n]+'|[^\s"',;&}\]]+)`),
	regexp.MustCompile(`(?i)(--?[\w-]*(?:` + telling + `)[\w-]*["',\s]+)(?:"(?:[^"\\\n]|\\.)+"|'[^'\n]+'|[^\s"',;&}\]-][^\s"',;&}\]]*)`),
}

// Scrub returns the text without its secrets.
func (s *Scrubber) Scrub(b []byte) []byte {
	for _, v := range s.known {
		b = bytes.ReplaceAll(b, v, []byte(Masked))
	}
	for _, p := range patterns {
		keep := []byte(Masked)
		if p.NumSubexp() > 0 {
			keep = []byte("${1}" + Masked)
		}
		b = p.ReplaceAll(b, keep)
	}
	return b
}
