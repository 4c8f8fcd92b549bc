package main

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/pkg/journal"
	"github.com/understudy-ha/understudy/pkg/transfer"
)

// newBackupCommand holds what is done with backups.
func newBackupCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "The states that were put by when reigns began: list them, save one in a file, go back to one",
		Long: `When a node becomes master it puts by the state that it found, and with
state.backups.demotion also the one that it left, beside the persisted state in
backups/. The plane keeps the newest of them (state.backups.keep).

A backup holds all keys, and what the names of artifacts meant; the bytes of
artifacts that have been removed since are gone.`,
		Args: cobra.ArbitraryArgs,
		RunE: groupOnly,
	}
	cmd.AddCommand(newBackupListCommand(g), newBackupExportCommand(g), newBackupRestoreCommand(g))
	return cmd
}

// backupPlace is where the backups lie.
type backupPlace struct{ store, root string }

func (p *backupPlace) addTo(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.store, "store", "", "the plane's `location`")
	cmd.Flags().StringVar(&p.root, "artifacts", "", "the `location` of its artifacts, if not in --store")
}

// listedBackup is a backup as -o json has it.
type listedBackup struct {
	Name     string    `json:"name"`
	Made     time.Time `json:"made"`
	Node     string    `json:"node"`
	Occasion string    `json:"occasion"`
	Seq      uint64    `json:"seq"` // of its last transaction
}

func newBackupListCommand(g *globals) *cobra.Command {
	var at backupPlace
	cmd := &cobra.Command{
		Use:   "list --store LOCATION",
		Short: "List the backups, the newest first",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := at.backups(cmd, g)
			if err != nil {
				return err
			}
			slices.Reverse(found)
			out := make([]listedBackup, 0, len(found))
			rows := [][]cell{plainCells("BACKUP", "NODE", "OCCASION", "SEQ", "AGE")}
			for _, b := range found {
				out = append(out, listedBackup{b.Name(), b.Made, string(b.Node), b.Occasion, b.Head.Seq})
				rows = append(rows, plainCells(b.Name(), string(b.Node), b.Occasion, strconv.FormatUint(b.Head.Seq, 10), age(ageOf(b.Made, time.Now()))))
			}
			return g.print(cmd, out, func(s *screen) {
				if len(out) == 0 {
					s.printf("no backups; state.backups says when one is made\n")
					return
				}
				s.table(rows)
			})
		},
	}
	at.addTo(cmd)
	return cmd
}

// backups lists what is there, the oldest first.
func (p *backupPlace) backups(cmd *cobra.Command, g *globals) ([]journal.Backup, error) {
	if p.store == "" {
		return nil, usagef("%swants --store, the location to read", of(cmd))
	}
	place, err := g.openArg(cmd, p.store)
	if err != nil {
		return nil, err
	}
	defer func() { _ = place.Close() }() // it was only read
	l := journal.Loader{Objects: place.Store, Limit: readLimit}
	return l.Backups(cmd.Context())
}

// with hands the content of a backup to do. lostToo: artifacts that are gone
// are done without.
func (p *backupPlace) with(cmd *cobra.Command, g *globals, name string, lostToo bool, do func(*transfer.Content) error) error {
	found, err := p.backups(cmd, g)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(found, func(b journal.Backup) bool { return b.Name() == name })
	if i < 0 {
		return exitf(exitFailed, "there is no backup %q in %s; understudy backup list --store %[2]s names them", name, p.store)
	}
	place, files, err := g.openPlane(cmd, p.store, p.root)
	if err != nil {
		return err
	}
	defer func() { _ = place.Close(); _ = files.Close() }() // they were only read
	c, lost, err := transfer.ReadBackup(cmd.Context(), place.Store, files, found[i], readLimit)
	if err != nil {
		return err
	}
	if len(lost) > 0 {
		var names []string
		for _, e := range lost {
			names = append(names, e.Name)
		}
		gone := strings.Join(names, ", ")
		if !lostToo {
			return exitf(exitUnsafe, "artifacts that have been removed since: %s; --without-lost goes on without them, push them again afterwards", gone)
		}
		cmd.PrintErrf("understudy: warning: without the artifacts that have been removed since: %s\n", gone)
	}
	return do(c)
}

func addLostFlag(cmd *cobra.Command, lost *bool) {
	cmd.Flags().BoolVar(lost, "without-lost", false, "go on without artifacts whose bytes have been removed since")
}

func newBackupExportCommand(g *globals) *cobra.Command {
	var at backupPlace
	var lost bool
	cmd := &cobra.Command{
		Use:   "export BACKUP FILE --store LOCATION",
		Short: "Save a backup in a zip file, as export does with the present state",
		Args:  namesArgs(2, 2, "a backup and the name of a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return at.with(cmd, g, args[0], lost, func(c *transfer.Content) error {
				if err := exportTo(cmd, c, args[1]); err != nil {
					return err
				}
				return g.print(cmd, exportedAs(args[1], c), exportedAs(args[1], c).draw)
			})
		},
	}
	at.addTo(cmd)
	addLostFlag(cmd, &lost)
	return cmd
}

func newBackupRestoreCommand(g *globals) *cobra.Command {
	var at backupPlace
	var to, files string
	var replace, lost bool
	cmd := &cobra.Command{
		Use:   "restore BACKUP --store LOCATION [--replace | --to LOCATION]",
		Short: "Go back to a backup, while all nodes are stopped",
		Long: `Go back to a backup: in the plane itself (--replace drops what it holds now), or
in another location (--to). All nodes of the plane that is written to must be
stopped: it holds their register meanwhile. Terms and transaction numbers go on.
To bring a backup back into a plane that runs: 'backup export', then 'import'.`,
		Args: namesArgs(1, 1, "a backup"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				to, files = at.store, at.root
			}
			return at.with(cmd, g, args[0], lost, func(c *transfer.Content) error {
				m, err := g.deposit(cmd, c, destination{location: to, files: files, replace: replace})
				if err != nil {
					return err
				}
				return g.print(cmd, m, m.draw)
			})
		},
	}
	at.addTo(cmd)
	addLostFlag(cmd, &lost)
	cmd.Flags().StringVar(&to, "to", "", "the `location` to restore into (default: --store)")
	cmd.Flags().StringVar(&files, "artifacts-to", "", "the `location` for its artifacts, if not in --to")
	cmd.Flags().BoolVar(&replace, "replace", false, "drop the keys and artifacts that are there now")
	return cmd
}
