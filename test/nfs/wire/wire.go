// Package wire is what the lab of package nfs and the first program of its
// guests say to each other, by net/rpc over the guest's own network device.
// Instants are CLOCK_BOOTTIME of the guest, in nanoseconds.
package wire

import "time"

// Port is where a guest's first program listens.
const Port = 700

// Variables of the kernel's command line, which end up in the environment of
// the guest's first program.
const (
	EnvName    = "guest_name"
	EnvAddress = "guest_address" // with prefix length
	EnvImage   = "guest_image"   // directory of this machine: what test/nfs/fetch unpacked
	EnvShare   = "guest_share"   // directory of this machine: the programs under test
)

// Directories of a guest.
const (
	Image = "/image" // see EnvImage; read-only
	Share = "/share" // see EnvShare; read-only
	Data  = "/data"  // its own memory: gone when the guest is
	Mount = "/mnt"   // where it mounts; memory of its own again
)

// Nothing is an empty argument or result.
type Nothing struct{}

// Command is a program of a guest.
type Command struct {
	Args    []string
	Env     []string
	Chroot  string        // "" for none
	Timeout time.Duration // 0: a minute; not for Start
	Log     string        // Start only: file that takes its output
}

// Result is how a command ended.
type Result struct {
	Output string // standard output and standard error
	Code   int    // -1: by a signal
}

// Signal is a signal for a process.
type Signal struct {
	Pid, Signal int
}

// MountArgs are the arguments of mount(2), and of umount2(2), which only looks
// at Target and Flags. The target is made if it is missing.
type MountArgs struct {
	Source, Target, Type, Options string
	Flags                         int
}

// TailArgs asks for what files of a directory have gained.
type TailArgs struct {
	Dir  string
	Have map[string]int64 // bytes already known, by name
}

// TailResult is the news by file name. A directory that is missing has none.
type TailResult struct {
	News map[string][]byte
}

// Exports says what the server is to export: all of Device, as Path.
type Exports struct {
	Device, Path string
	To           string // network
	Lease        time.Duration
	Again        bool // Device holds what a former life of this server has exported
}
