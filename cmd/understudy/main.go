// Command understudy is the daemon and its client: it keeps one service alive
// on several machines that share only storage. This package is the
// composition root; each command has a file of its own.
package main

import (
	"context"
	"os"

	"github.com/understudy-ha/understudy/pkg/address"
	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/supervise"
	"github.com/understudy-ha/understudy/pkg/unit"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version = ""

func main() {
	// The processes that must stay small, and start although the command line
	// parser's packages would take their time, are told apart first.
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "guard":
			os.Exit(guard.Main())
		case "shim":
			os.Exit(guard.ShimMain())
		case supervise.LogCommand:
			os.Exit(supervise.LogMain(os.Args[2:]))
		case address.Command:
			os.Exit(address.Main(os.Args[2:], os.Stdout))
		case unit.Command:
			os.Exit(unit.Main(os.Args[2:], os.Stdout, os.Stderr))
		case releaseCommand:
			os.Exit(releaseChild(os.Args[2:], os.Stdin, os.Stderr))
		}
	}
	os.Exit(execute(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}
