// Package systemd holds the unit that is shipped with Understudy.
package systemd

import (
	_ "embed" // for the file below
	"strings"
)

// unit is understudy.service.
//
//go:embed understudy.service
var unit string

// The paths that the file is written with.
const (
	shippedBinary = "/usr/local/bin/understudy"
	shippedConfig = "/etc/understudy/understudy.yaml"
)

// Unit is the unit for a binary and a configuration at these absolute paths.
func Unit(binary, config string) string {
	return strings.NewReplacer(shippedBinary, quoted(binary), shippedConfig, quoted(config)).Replace(unit)
}

// quoted is a path as a word of a command line of systemd: '%' and '$' mean
// something there.
func quoted(path string) string {
	path = strings.NewReplacer("%", "%%", "$", "$$").Replace(path)
	if strings.ContainsAny(path, " \t\"'\\;") {
		path = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(path) + `"`
	}
	return path
}
