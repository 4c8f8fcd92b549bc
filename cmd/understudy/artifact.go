package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/api/client"
	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/pkg/artifact"
)

// newArtifactCommand keeps large files where every node finds them.
func newArtifactCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "artifact",
		Short: "Large files that the service needs on whichever node is master",
		Long: `Large files (jars, binaries, models) that the service needs on whichever node is
master. service.command names one as {artifact:NAME}; standbys get it ahead of
time. Each is stored whole or not at all, and verified by its SHA-256 on every
way it goes.`,
		Args: cobra.ArbitraryArgs,
		RunE: groupOnly,
	}
	cmd.AddCommand(newArtifactPushCommand(g), newArtifactPullCommand(g), newArtifactListCommand(g), newArtifactRemoveCommand(g))
	return cmd
}

func newArtifactPushCommand(g *globals) *cobra.Command {
	var again bool
	cmd := &cobra.Command{
		Use:   "push NAME FILE",
		Short: "Store a file under a name, in the place of what had the name before",
		Long: `Store a file under a name, in the place of what had the name before. The service
that runs keeps what it was started with; its next start uses the new file.

Nothing is sent when the name means that very content already; --again sends it
nevertheless, which repairs what was damaged in the store.`,
		Example: "  understudy artifact push app.jar build/libs/app-1.2.jar",
		Args:    namesArgs(2, 2, "a name and a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := pushFile(cmd, g, args[0], args[1], again)
			if err != nil {
				return err
			}
			return g.print(cmd, e, func(s *screen) { drawArtifacts(s, []v1.Artifact{e}) })
		},
	}
	cmd.Flags().BoolVar(&again, "again", false, "send it although it is there already")
	return cmd
}

func newArtifactPullCommand(g *globals) *cobra.Command {
	var store storeFlag
	var root string
	cmd := &cobra.Command{
		Use:   "pull NAME [FILE]",
		Short: "Get an artifact into a file, NAME unless another is given; - is standard output",
		Long: `Get an artifact into a file, verified. A transfer that is cut off leaves
.FILE.part, with which the next one goes on.`,
		Args: namesArgs(1, 2, "a name, and perhaps a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := openArtifactSource(cmd, g, store.location, root)
			if err != nil {
				return err
			}
			defer src.close()
			file := args[0]
			if len(args) > 1 {
				file = args[1]
			}
			return pullFile(cmd, src, args[0], file)
		},
	}
	store.addTo(cmd)
	addRootFlag(cmd, &root)
	return cmd
}

func newArtifactListCommand(g *globals) *cobra.Command {
	var store storeFlag
	var root string
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "Show the artifacts: name, size, digest, age",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			src, err := openArtifactSource(cmd, g, store.location, root)
			if err != nil {
				return err
			}
			defer src.close()
			all, err := src.list(cmd.Context())
			if err != nil {
				return err
			}
			return g.print(cmd, v1.ArtifactList{Artifacts: all}, func(s *screen) { drawArtifacts(s, all) })
		},
	}
	store.addTo(cmd)
	addRootFlag(cmd, &root)
	return cmd
}

func newArtifactRemoveCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME...",
		Aliases: []string{"remove"},
		Short:   "Take names away; what they meant is removed after state.retention",
		Args:    namesArgs(1, 1000, "names"),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range args {
				if err := artifact.CheckName(name); err != nil {
					return usagef("%s%w", of(cmd), err)
				}
				err := g.onMaster(cmd.Context(), func(c *client.Client) error { return c.DeleteArtifact(cmd.Context(), name) })
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// namesArgs is Args of a command that takes from min to max.
func namesArgs(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usagef("%swants %s; see %s --help", of(cmd), what, cmd.CommandPath())
		}
		return nil
	}
}

func addRootFlag(cmd *cobra.Command, root *string) {
	cmd.Flags().StringVar(root, "root", "", "with --store: the `location` of the artifacts, where artifacts.root names one (default: the configuration's, or the store's)")
}

// onMaster asks the nodes given, and if the one that answers is not the master,
// the master, or who is about to become it: that one waits for artifacts.
func (g *globals) onMaster(ctx context.Context, ask func(c *client.Client) error) error {
	at := *g
	for tries := 0; ; tries++ {
		c, err := at.connect()
		if err != nil {
			return err
		}
		err = ask(c)
		var refused *client.StatusError
		next := ""
		if errors.As(err, &refused) && refused.Code == http.StatusForbidden {
			if next = refused.Master; next == "" {
				next = leaderURI(ctx, c)
			}
		}
		c.Close()
		if next == "" || tries == 2 {
			return err
		}
		at.endpoints = []string{next}
	}
}

// leaderURI is where the holder of the term is; empty if nobody knows.
func leaderURI(ctx context.Context, c *client.Client) string {
	p, err := c.States(ctx)
	if err != nil || p.LeaderID == nil {
		return ""
	}
	if uri := p.Nodes[*p.LeaderID].NodeURI; uri != nil {
		return *uri
	}
	return ""
}

// pushFile reads the file twice: once for its digest, which the node that
// receives it compares, and once to send it.
func pushFile(cmd *cobra.Command, g *globals, name, file string, again bool) (v1.Artifact, error) {
	if err := artifact.CheckName(name); err != nil {
		return v1.Artifact{}, usagef("%s%w", of(cmd), err)
	}
	f, err := os.Open(file)
	if err != nil {
		return v1.Artifact{}, usagef("%s%w", of(cmd), err)
	}
	defer f.Close() // it was only read
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", file)
	}
	if err != nil {
		return v1.Artifact{}, usagef("%s%w", of(cmd), err)
	}
	bar := newTransfer(cmd.ErrOrStderr(), "reading "+name, fi.Size())
	digest, size, err := artifact.Sum(bar.reader(f))
	bar.end()
	if err != nil {
		return v1.Artifact{}, err
	}
	if !again {
		if e, ok := haveAlready(cmd.Context(), g, name, digest); ok {
			return e, nil
		}
	}
	var out v1.Artifact
	bar = newTransfer(cmd.ErrOrStderr(), "sending "+name, size)
	defer bar.end()
	err = g.onMaster(cmd.Context(), func(c *client.Client) (err error) {
		out, err = c.PutArtifact(cmd.Context(), name, client.Content{
			Size: size, SHA256: string(digest),
			Open: func() (io.ReadCloser, error) {
				bar.reset()
				return io.NopCloser(bar.reader(io.NewSectionReader(f, 0, size))), nil
			},
		})
		return err
	})
	return out, err
}

// haveAlready reports whether the name means that content. Not to know is no
// error: then it is sent.
func haveAlready(ctx context.Context, g *globals, name string, digest artifact.Digest) (v1.Artifact, bool) {
	var all []v1.Artifact
	err := g.onMaster(ctx, func(c *client.Client) (err error) {
		all, err = c.Artifacts(ctx)
		return err
	})
	for _, e := range all {
		if err == nil && e.Name == name && e.SHA256 == string(digest) {
			return e, true
		}
	}
	return v1.Artifact{}, false
}

// pullTries is how often in a row a transfer is gone on with that brought
// nothing.
const pullTries = 5

// pullFile gets an artifact into a file that appears when it is whole.
func pullFile(cmd *cobra.Command, src artifactSource, name, file string) error {
	ctx := cmd.Context()
	e, err := src.find(ctx, name)
	if err != nil {
		return err
	}
	digest := artifact.Digest(e.SHA256)
	bar := newTransfer(cmd.ErrOrStderr(), "getting "+name, e.Size)
	defer bar.end()
	fetch := func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		rc, err := src.open(ctx, e, offset)
		if err != nil {
			return nil, err
		}
		bar.set(offset)
		return struct {
			io.Reader
			io.Closer
		}{bar.reader(rc), rc}, nil
	}
	if file == "-" {
		rc, err := fetch(ctx, 0)
		if err != nil {
			return err
		}
		_, err = io.Copy(cmd.OutOrStdout(), artifact.Verify(rc, digest, e.Size))
		return errors.Join(err, rc.Close())
	}
	return pullInto(ctx, file, digest, e.Size, fetch)
}

func pullInto(ctx context.Context, file string, digest artifact.Digest, size int64, fetch artifact.Fetch) error {
	part := filepath.Join(filepath.Dir(file), "."+filepath.Base(file)+".part")
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644) //nolint:gosec // as any download
	if err != nil {
		return usagef("artifact pull: %w", err)
	}
	defer f.Close() // closed below on the way to success
	for tries, had := 0, int64(-1); ; tries++ {
		err = artifact.Complete(ctx, f, digest, size, fetch)
		var nobody *client.UnreachableError
		var refused *client.StatusError
		if err == nil || ctx.Err() != nil || errors.Is(err, artifact.ErrCorrupt) || errors.As(err, &refused) {
			break
		}
		fi, serr := f.Stat()
		if serr != nil {
			return errors.Join(err, serr)
		}
		if fi.Size() > had {
			tries = 0
		}
		if had = fi.Size(); tries == pullTries || (errors.As(err, &nobody) && had == 0) {
			break
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close(), os.Rename(part, file))
}

func drawArtifacts(s *screen, all []v1.Artifact) {
	rows := [][]cell{plainCells("NAME", "BYTES", "SHA256", "PUSHED")}
	for _, e := range all {
		rows = append(rows, plainCells(e.Name, fmt.Sprint(e.Size), e.SHA256, e.Pushed.Local().Format(time.DateTime)))
	}
	s.table(rows)
}
