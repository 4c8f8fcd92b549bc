package ec2test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	algorithm = "AWS4-HMAC-SHA256"
	timeForm  = "20060102T150405Z"
	maxSkew   = 15 * time.Minute
)

// unsigned says what is wrong with the signature of a request, "" if nothing
// is. It follows the published description of Signature Version 4 rather than
// the SDK's own code.
func unsigned(r *http.Request, body []byte, now time.Time) string {
	kind, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if kind != algorithm {
		return "it is not signed with " + algorithm
	}
	part := map[string]string{}
	for field := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(field), "=")
		part[name] = value
	}
	date := r.Header.Get("X-Amz-Date")
	at, err := time.Parse(timeForm, date)
	if err != nil || now.Sub(at).Abs() > maxSkew {
		return "its date is " + date
	}
	scope := strings.Join([]string{date[:8], Region, "ec2", "aws4_request"}, "/")
	if part["Credential"] != AccessKey+"/"+scope {
		return "its credential is " + part["Credential"]
	}
	names := strings.Split(part["SignedHeaders"], ";")
	for _, must := range []string{"host", "x-amz-date"} {
		if !slices.Contains(names, must) {
			return must + " is not signed"
		}
	}
	headers := ""
	for _, name := range names {
		value := strings.Join(r.Header.Values(name), ",")
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = strconv.FormatInt(r.ContentLength, 10)
		}
		headers += name + ":" + strings.Join(strings.Fields(value), " ") + "\n"
	}
	canonical := strings.Join([]string{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, headers, part["SignedHeaders"], digest(body)}, "\n")
	key := []byte("AWS4" + SecretKey)
	for _, step := range []string{date[:8], Region, "ec2", "aws4_request"} {
		key = sign(key, step)
	}
	want := hex.EncodeToString(sign(key, strings.Join([]string{algorithm, date, scope, digest([]byte(canonical))}, "\n")))
	if !hmac.Equal([]byte(want), []byte(part["Signature"])) {
		return "its signature does not hold"
	}
	return ""
}

func sign(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
