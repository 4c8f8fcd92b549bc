//go:build race

package ha_test

// many nodes, or worlds; fewer where each step costs ten times as much.
const many = 20
