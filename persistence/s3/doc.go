// Package s3 keeps a plane in a bucket of Amazon S3, or of a service that
// speaks its protocol and has atomic conditional writes.
//
// # The register
//
// The register is one object, <prefix>/lease, whose content is the value and
// whose ETag, as it came, is the version:
//
//	Init: PUT  lease, If-None-Match: *
//	CAS:  PUT  lease, If-Match: VERSION    -> the new ETag
//	Read: GET  lease, If-None-Match: what the last GET returned
//
// The server compares and writes in one step, so of several writers of one
// version one wins. 304 is a read like any other. A release is a CAS: several
// servers ignore conditions on DELETE.
//
// An ETag is an MD5 of the content, or random bytes where the server encrypts
// with KMS. No two values are equal, because each carries a writeId of its own,
// so no two versions are either. A reply without an ETag, or with a weak one,
// is undecided. The register is always written as one PUT, never in parts.
//
// # One attempt
//
// A conditional PUT that is sent again answers 412 to its own winner. Nothing
// about the register is ever retried: not by the SDK (NopRetryer), not by
// net/http (which resends a PUT only if it has written none of it), and no
// redirect is followed. What is idempotent about objects, GET, LIST and
// DELETE, is tried up to three times.
//
// A request that is given up because ctx ended may still be applied, then or
// later, or never; its outcome can not be learnt from this side. That is what
// Unknown says, and why there are no LateResults: nothing goes on here once the
// call has returned.
//
// # What is not taken for a success
//
// A write answered 200 with an error in its body (the SDK looks); a GET without
// an ETag, or without a length or an end, so that a cut could not be seen; an
// error document in place of the register. These are Unknown. Anything else that is no value is Torn,
// and nobody claims.
//
// # Connections
//
// Register and objects have connections of their own, so that no heartbeat
// waits behind an artifact. HTTP/1.1 only: of HTTP/2 one stuck connection holds
// up all requests. Dialling is bounded by 1 s, TLS by 2 s, everything by ctx.
// Credentials are renewed in the background, ahead of their end (keyring).
//
// # Names
//
// Objects are keys beneath the prefix; scratch areas of Sub are .name/ beneath
// it, and are skipped by List and Empty. Objects larger than one part (8 MiB)
// are uploaded in parts, one in memory at a time, and show when complete.
package s3
