// Package config holds the commented default configuration that is shipped
// with Understudy. A test of pkg/config holds it equal to the defaults.
package config

import _ "embed" // for the file below

// YAML is understudy.yaml: every key with its default and an explanation, all
// of it commented out.
//
//go:embed understudy.yaml
var YAML []byte
