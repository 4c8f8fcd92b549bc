//go:build race

package ha_test

// many nodes; fewer where each step costs ten times as much.
const many = 20
