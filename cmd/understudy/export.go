package main

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/pkg/transfer"
)

// exported is what export says with -o json.
type exported struct {
	File      string `json:"file"`
	PlaneID   string `json:"planeId"`
	Term      uint64 `json:"term"`
	Keys      int    `json:"keys"`
	Artifacts int    `json:"artifacts"`
	Digest    string `json:"digest"`
}

func newExportCommand(g *globals) *cobra.Command {
	var store, root string
	cmd := &cobra.Command{
		Use:   "export FILE --store LOCATION",
		Short: "Save what a plane persists, keys and artifacts, in a zip file",
		Long: `Save what a plane persists, keys and artifacts, in a zip file. It reads the store
and no node; the plane may be in use. The file appears when it is whole.`,
		Args: namesArgs(1, 1, "the name of a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if store == "" {
				return usagef("export wants --store, the location to read")
			}
			p, files, err := g.openPlane(cmd, store, root)
			if err != nil {
				return err
			}
			defer func() { _ = p.Close(); _ = files.Close() }() // they were only read
			c, err := transfer.Read(cmd.Context(), p.Store, files, readLimit)
			if err != nil {
				return err
			}
			if err := exportTo(cmd, c, args[0]); err != nil {
				return err
			}
			e := exported{args[0], string(c.Plane), uint64(c.Term), c.Keys(), len(c.Artifacts), c.Digest()}
			return g.print(cmd, e, e.draw)
		},
	}
	cmd.Flags().StringVar(&store, "store", "", "the `location` to read")
	cmd.Flags().StringVar(&root, "artifacts", "", "the `location` of its artifacts, if not in --store")
	return cmd
}

func (e exported) draw(s *screen) {
	s.printf("%d keys and %d artifacts are in %s: sha256 %s\n", e.Keys, e.Artifacts, e.File, e.Digest)
}

// exportTo writes a file that appears when it is whole.
func exportTo(cmd *cobra.Command, c *transfer.Content, path string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600: it may hold secrets
	if err != nil {
		return usagef("export: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriterSize(f, 256<<10)
	err = c.WriteArchive(cmd.Context(), w, time.Now())
	if err == nil {
		err = w.Flush()
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func newImportCommand(g *globals) *cobra.Command {
	var to, files string
	var replace bool
	cmd := &cobra.Command{
		Use:   "import FILE --to LOCATION",
		Short: "Restore what was exported, into an empty location or a plane whose nodes are stopped",
		Long: `Restore what was exported into a location, as copy-state does: an empty one, in
which a plane is made, or one whose nodes are all stopped. Everything in the
file is compared with its checksums, and read back, before it counts; a file
that is damaged, or holds anything that an export does not, is refused.`,
		Args: namesArgs(1, 1, "an exported file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				return usagef("import wants --to, the location to restore into")
			}
			f, err := os.Open(args[0])
			if err != nil {
				return usagef("import: %w", err)
			}
			defer f.Close() // it was only read
			fi, err := f.Stat()
			if err != nil {
				return err
			}
			c, err := transfer.ReadArchive(f, fi.Size())
			if err != nil {
				return usagef("import: %s: %w", args[0], err)
			}
			m, err := g.deposit(cmd, c, destination{location: to, files: files, replace: replace})
			if err != nil {
				return err
			}
			return g.print(cmd, m, m.draw)
		},
	}
	f := cmd.Flags()
	f.StringVar(&to, "to", "", "the `location` to restore into")
	f.StringVar(&files, "artifacts-to", "", "the `location` for its artifacts, if not in --to")
	f.BoolVar(&replace, "replace", false, "drop the keys and artifacts that the destination holds already")
	return cmd
}
