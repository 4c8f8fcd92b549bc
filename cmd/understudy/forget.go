package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/guard"
	"github.com/understudy-ha/understudy/pkg/ha"
)

// operatorLog is where a data directory keeps what operators did to it.
const operatorLog = "operator.log"

func newForgetPlaneCommand(g *globals) *cobra.Command {
	var conf configFlags
	cmd := &cobra.Command{
		Use:   "forget-plane PLANE",
		Short: "Make this machine's node forget its plane, so that it may join another",
		Long: `Make this machine's node forget the plane it belongs to, so that it may join
another one, or one that was made anew. The node's id is kept. Its daemon must
not be running. PLANE is the id of the plane it remembers: that it is typed out
is the confirmation.

A node refuses a location that does not hold its plane because, as a rule, the
shared file system is not mounted there. Make sure that this is not the reason:
with two planes there are two masters.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("forget-plane: wants the id of the plane to forget; see %s --help", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			src, _, err := conf.sources(g.configPath())
			if err != nil {
				return err
			}
			cfg, _, err := config.Read(src)
			if err != nil {
				return err
			}
			if err := forgetPlane(cfg.DataDir, args[0]); err != nil {
				return err
			}
			cmd.Printf("plane %s forgotten in %s; the node joins the plane it finds at its next start\n", args[0], cfg.DataDir)
			return nil
		},
	}
	conf.addTo(cmd.Flags())
	return cmd
}

func forgetPlane(dataDir, plane string) (err error) {
	if _, err := os.Stat(dataDir); errors.Is(err, fs.ErrNotExist) {
		return usagef("dataDir %s does not exist; name the node's with --config or --set dataDir=DIRECTORY", dataDir)
	}
	lock, err := guard.LockDir(dataDir)
	if errors.Is(err, guard.ErrLocked) {
		return exitf(exitPrecondition, "%w", err)
	}
	if err != nil {
		return dataDirError(dataDir, err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	dir, err := ha.OpenDir(dataDir)
	if err != nil {
		return dataDirError(dataDir, err)
	}
	known, term := dir.Recall()
	switch {
	case known == "":
		return exitf(exitPrecondition, "%s remembers no plane, so there is nothing to forget", dataDir)
	case string(known) != plane:
		return exitf(exitPrecondition, "%s remembers plane %s (term %d), not %s; nothing was changed", dataDir, known, term, plane)
	}
	// The record first: what is done must be on record, the reverse is harmless.
	f, err := os.OpenFile(filepath.Join(dataDir, operatorLog), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return dataDirError(dataDir, err)
	}
	_, err = fmt.Fprintf(f, "%s forget-plane %s, term %d, by uid %d\n", time.Now().UTC().Format(time.RFC3339), known, term, os.Getuid())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return dataDirError(dataDir, err)
	}
	if err := dir.ForgetPlane(); err != nil {
		return dataDirError(dataDir, err)
	}
	return nil
}
