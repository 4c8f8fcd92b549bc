//go:build race

package election

// The race detector slows the explorer, which is one goroutine, and finds
// nothing: a few ticks show that it works, the rest runs without.
const exploreTicks = 7
