// Package s3 tries the S3 store, and planes on it, on real servers: versitygw,
// and MinIO where it was built, behind a network that fails on command (package
// proxy), and on servers that break the promise of conditional writes (package
// double), which must be refused.
//
// What needs minutes runs with S3_FULL=1 only, which `make conformance-s3` (part
// of `make conformance-all`) sets; the rest is the suite s3 of `make test`.
package s3
