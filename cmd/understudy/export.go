package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/api/client"
	"github.com/understudy-ha/understudy/api/v1"
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
		Use:   "export FILE [--store LOCATION]",
		Short: "Save what a plane persists, keys and artifacts, in a zip file",
		Long: `Save what a plane persists, keys and artifacts, in a zip file: as its master has
it, or with --store as the store has it, without a node. The plane may be in use.
The file appears when it is whole and was compared with its checksums.`,
		Args: namesArgs(1, 1, "the name of a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if store == "" {
				if root != "" {
					return usagef("%s--artifacts is for --store; a node knows where its artifacts lie", of(cmd))
				}
				return exportLive(cmd, g, args[0])
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
			return g.print(cmd, exportedAs(args[0], c), exportedAs(args[0], c).draw)
		},
	}
	cmd.Flags().StringVar(&store, "store", "", "the `location` to read, instead of asking the master")
	cmd.Flags().StringVar(&root, "artifacts", "", "the `location` of its artifacts, if not in --store")
	return cmd
}

func exportedAs(file string, c *transfer.Content) exported {
	return exported{file, string(c.Plane), uint64(c.Term), c.Keys(), len(c.Artifacts), c.Digest()}
}

// exportLive asks the master.
func exportLive(cmd *cobra.Command, g *globals, path string) error {
	var e exported
	err := whole(path, func(f *os.File) error {
		err := g.onMaster(cmd.Context(), func(c *client.Client) error {
			if err := errors.Join(f.Truncate(0), rewind(f)); err != nil {
				return err
			}
			return c.Export(cmd.Context(), f)
		})
		if err != nil {
			return err
		}
		fi, err := f.Stat()
		if err != nil {
			return err
		}
		c, err := transfer.ReadArchive(f, fi.Size())
		if err != nil {
			return fmt.Errorf("what came is not whole, try again: %w", err)
		}
		e = exportedAs(path, c)
		return c.Verify(cmd.Context())
	})
	if err != nil {
		return err
	}
	return g.print(cmd, e, e.draw)
}

func rewind(f *os.File) error {
	_, err := f.Seek(0, io.SeekStart)
	return err
}

func (e exported) draw(s *screen) {
	s.printf("%d keys and %d artifacts are in %s: sha256 %s\n", e.Keys, e.Artifacts, e.File, e.Digest)
}

// exportTo writes a file that appears when it is whole.
func exportTo(cmd *cobra.Command, c *transfer.Content, path string) error {
	return whole(path, func(f *os.File) error {
		w := bufio.NewWriterSize(f, 256<<10)
		return errors.Join(c.WriteArchive(cmd.Context(), w, time.Now()), w.Flush())
	})
}

// whole has a file written that appears when that has succeeded.
func whole(path string, write func(f *os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600: it may hold secrets
	if err != nil {
		return usagef("export: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	err = write(f)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func newImportCommand(g *globals) *cobra.Command {
	var to, files string
	var replace bool
	cmd := &cobra.Command{
		Use:   "import FILE [--to LOCATION]",
		Short: "Restore what was exported: into the plane that runs, or with --to into a location",
		Long: `Restore what was exported. Without --to the master of the plane that runs merges
it in: what the file names becomes as it is there, what it does not name stays,
and so does whatever is changed while the import runs.

With --to it is restored into a location, as copy-state does: an empty one, in
which a plane is made, or one whose nodes are all stopped; it is read back before
it counts.

Everything in the file is compared with its checksums first; a file that is
damaged, or holds anything that an export does not, is refused.`,
		Args: namesArgs(1, 1, "an exported file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				if files != "" || replace {
					return usagef("%s--artifacts-to and --replace are for --to, a location to restore into", of(cmd))
				}
				return importLive(cmd, g, args[0])
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
	f.StringVar(&to, "to", "", "the `location` to restore into, instead of the plane that runs")
	f.StringVar(&files, "artifacts-to", "", "the `location` for its artifacts, if not in --to")
	f.BoolVar(&replace, "replace", false, "drop the keys and artifacts that the destination holds already")
	return cmd
}

// importLive has the master merge a file.
func importLive(cmd *cobra.Command, g *globals, path string) error {
	fi, err := os.Stat(path)
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		return usagef("import: %w", err)
	}
	var m v1.Imported
	err = g.onMaster(cmd.Context(), func(c *client.Client) (err error) {
		m, err = c.Import(cmd.Context(), client.Content{Open: func() (io.ReadCloser, error) { return os.Open(path) }, Size: fi.Size()})
		return err
	})
	if err != nil {
		return err
	}
	return g.print(cmd, m, func(s *screen) {
		s.printf("%d keys and %d artifacts were imported, %d were so already\n", m.Keys, m.Artifacts, m.Same)
		if m.Kept > 0 {
			s.printf("%d were changed while this ran and stay as they were changed\n", m.Kept)
		}
	})
}
