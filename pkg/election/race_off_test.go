//go:build !race

package election

const exploreTicks = 11
