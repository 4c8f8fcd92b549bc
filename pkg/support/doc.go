// Package support makes support bundles: one compressed archive of what helps
// to understand a node, with everything secret taken out.
//
// Secrets are taken out twice. What is known to be one (the values that the
// configuration marks, what files of passwords, keys and tokens hold) is
// replaced wherever it stands, in each of the forms in which it may be written.
// And what looks like one is: the value after a telling name, private keys,
// tokens, hashes of passwords, passwords within URLs.
package support
