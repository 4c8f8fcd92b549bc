// Package api holds the REST contract. The wire types are in api/v1, the
// server in api/server, a client in api/client.
package api

import _ "embed"

// OpenAPI is the OpenAPI 3.1 document of the REST interface, in YAML, as it is
// served at /v1/openapi.yaml.
//
//go:embed openapi.yaml
var OpenAPI []byte
