// Package config reads what the operator wants: one strict YAML file, the
// environment, flags, and the files of an Apache Brooklyn installation.
//
// A setting comes from the last of these that names it:
//
//	Default() < file < Brooklyn's files < environment < flags
//
// Reading is strict. An unknown key, a key given twice, a value of the wrong
// type and an impossible combination are errors that say where (file and
// line, variable or flag), which key, and what would be right. Every problem
// of a file is reported, not merely the first.
//
// Only keys that have an effect exist. Durations that the protocol derives
// from others read "derived" and are zero in Config; election.Derive fills
// them in once the store is known, see Config.TimingRequest.
package config
