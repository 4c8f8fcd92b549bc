// Command understudy is the daemon and its client: it keeps one service alive
// on several machines that share only storage. This package is the
// composition root; each command has a file of its own.
package main

import (
	"context"
	"os"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version = ""

func main() {
	os.Exit(execute(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}
