// Package v1 is the wire: what Understudy's REST interface sends and accepts
// under /v1, in the shapes of Apache Brooklyn's high-availability interface
// with the additions that api/openapi.yaml marks as such. It needs nothing but
// the standard library, so that a client can use it without the server's
// dependencies.
//
// Fields that have no value are written as null, never left out, unless their
// tag says omitempty. Times are Unix milliseconds of a wall clock unless their
// type is time.Time (RFC 3339); they are for people and are never compared.
package v1
