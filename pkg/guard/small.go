package guard

import (
	"fmt"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// small keeps guard and shim small: they do next to nothing. The limit is well
// above what the packages of the binary take at their initialisation: near it
// the collector would never rest.
func small() {
	debug.SetGCPercent(20)
	debug.SetMemoryLimit(16 << 20)
	debug.SetMaxThreads(50)
}

// DropBinary gives back the pages of the binary that only the beginning of this
// process needed, most of it the initialisation of packages: they are a large
// part of its resident memory, in a guard the largest. What is used comes back
// from the page cache; of a guard before memory is locked. A mapping of which a
// page was written to, by a loader, stays as it is.
func DropBinary() {
	var ranges [][2]uintptr
	var mapping [2]uintptr
	text := false
	for l := range strings.Lines(readAll("/proc/self/smaps")) {
		var from, to uintptr // "A" of other lines is a number, too
		var perms, offset, device string
		var inode, anonymous uint64
		if n, _ := fmt.Sscanf(l, "%x-%x %s %s %s %d", &from, &to, &perms, &offset, &device, &inode); n == 6 {
			mapping, text = [2]uintptr{from, to}, inode != 0 && (perms == "r-xp" || perms == "r--p")
			continue
		}
		if n, _ := fmt.Sscanf(l, "Anonymous: %d kB", &anonymous); n == 1 && text && anonymous == 0 {
			ranges = append(ranges, mapping)
		}
	}
	for _, r := range ranges {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, r[0], r[1]-r[0], unix.MADV_DONTNEED) // as before, if it fails
	}
}
