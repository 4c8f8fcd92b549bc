package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/election"
)

// newStoreCommand collects the commands that work on a location itself. None
// needs a daemon, and each opens the location it is given and no other.
func newStoreCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Can a location be trusted, how fast is it, what is in it; and what to do after a disaster",
		Args:  cobra.ArbitraryArgs,
		RunE:  groupOnly,
	}
	cmd.AddCommand(
		newStoreBenchCommand(g),
		newStoreDumpCommand(g),
		newStoreFsckCommand(g),
		newStoreReleaseCommand(g),
		newStoreRepairCommand(g),
		newStoreVerifyCommand(g),
	)
	return cmd
}

// storeArg is Args of a command that takes one location.
func storeArg(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef("%swants one location, a path or a URL, e.g. /mnt/understudy; see %s --help", of(cmd), cmd.CommandPath())
	}
	return nil
}

// openPlace is the location that a command names, opened; conf is the
// configuration of this host's node, or defaults.
type openPlace struct {
	persistence.Store
	loc  config.Location
	conf *config.Config
}

// openArg opens the location that a command names, with what the configuration
// has to say about reaching it. Close the result.
func (g *globals) openArg(cmd *cobra.Command, arg string) (*openPlace, error) {
	if _, err := config.ParseLocation(arg); err != nil {
		return nil, usagef("%slocation %w", of(cmd), err)
	}
	src := config.Sources{File: g.configPath(), Environ: os.Environ()}
	conf, _, err := config.Read(src)
	if err != nil {
		return nil, err
	}
	conf.PersistenceDir, conf.PersistMode = arg, config.PersistAuto
	loc, err := conf.Location()
	if err != nil {
		return nil, err
	}
	store, err := openStore(loc, nil)
	if err != nil {
		return nil, err
	}
	return &openPlace{store, loc, conf}, nil
}

// timing is what the nodes of this host would run with here.
func (p *openPlace) timing() (election.Timing, error) {
	return election.Derive(p.conf.TimingRequest(p.Limits().MinBeat, p.loc.PollDivisor()))
}
