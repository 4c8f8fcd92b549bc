// Package transfer moves, saves and restores what a plane persists: its keys
// and its artifacts, as one content with one digest, whatever kind of store it
// lies on.
package transfer
