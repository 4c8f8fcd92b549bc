package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/understudy-ha/understudy/api/client"
	"github.com/understudy-ha/understudy/api/v1"
	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/artifact"
	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/transfer"
)

// artifactSource is where the commands that read artifacts read them: the
// nodes, or the store itself when no node answers.
type artifactSource interface {
	list(ctx context.Context) ([]v1.Artifact, error)
	find(ctx context.Context, name string) (v1.Artifact, error)
	open(ctx context.Context, e v1.Artifact, offset int64) (io.ReadCloser, error)
	close()
}

func openArtifactSource(cmd *cobra.Command, g *globals, location, root string) (artifactSource, error) {
	if location == "" {
		if root != "" {
			return nil, usagef("%s--root is for --store; a node knows where its artifacts lie", of(cmd))
		}
		return onlineArtifacts{g}, nil
	}
	p, files, err := g.openPlane(cmd, location, root)
	if err != nil {
		return nil, err
	}
	c, err := transfer.Read(cmd.Context(), p.Store, files, readLimit)
	if err != nil {
		_ = p.Close()
		_ = files.Close()
		return nil, err
	}
	return &offlineArtifacts{p, files, c}, nil
}

// openPlane opens a location and where its artifacts lie: root, else what the
// configuration of this host says if it is about that location, else there.
func (g *globals) openPlane(cmd *cobra.Command, location, root string) (*openPlace, persistence.Store, error) {
	p, err := g.openArg(cmd, location)
	if err != nil {
		return nil, nil, err
	}
	conf, _, err := config.Read(config.Sources{File: g.configPath(), Environ: os.Environ()})
	if err == nil && root == "" {
		if own, oerr := conf.Location(); oerr == nil && own == p.loc {
			root = conf.Artifacts.Root
		}
	}
	if root == "" {
		root = location
	}
	files, err := g.openArg(cmd, root)
	if err != nil {
		_ = p.Close()
		return nil, nil, err
	}
	return p, files.Store, nil
}

func noSuchArtifact(name string) error {
	return exitf(exitFailed, "%w: %s; see understudy artifact list", artifact.ErrNone, name)
}

func findArtifact(all []v1.Artifact, name string) (v1.Artifact, error) {
	for _, e := range all {
		if e.Name == name {
			return e, nil
		}
	}
	return v1.Artifact{}, noSuchArtifact(name)
}

// onlineArtifacts asks the nodes.
type onlineArtifacts struct{ g *globals }

func (o onlineArtifacts) close() {}

func (o onlineArtifacts) list(ctx context.Context) (all []v1.Artifact, err error) {
	err = o.g.onMaster(ctx, func(c *client.Client) (err error) {
		all, err = c.Artifacts(ctx)
		return err
	})
	return all, err
}

func (o onlineArtifacts) find(ctx context.Context, name string) (v1.Artifact, error) {
	all, err := o.list(ctx)
	if err != nil {
		return v1.Artifact{}, err
	}
	return findArtifact(all, name)
}

func (o onlineArtifacts) open(ctx context.Context, e v1.Artifact, offset int64) (rc io.ReadCloser, err error) {
	err = o.g.onMaster(ctx, func(c *client.Client) (err error) {
		rc, err = c.GetArtifact(ctx, e.Name, e.SHA256, offset)
		return err
	})
	return rc, err
}

// offlineArtifacts reads the store.
type offlineArtifacts struct {
	p     *openPlace
	files persistence.Store
	c     *transfer.Content
}

func (o *offlineArtifacts) close() {
	_ = o.p.Close() // it was only read
	_ = o.files.Close()
}

func (o *offlineArtifacts) list(context.Context) ([]v1.Artifact, error) {
	out := []v1.Artifact{}
	for _, e := range o.c.Artifacts {
		out = append(out, v1.Artifact{Name: e.Name, SHA256: string(e.Digest), Size: e.Size, Pushed: e.Pushed})
	}
	return out, nil
}

func (o *offlineArtifacts) find(ctx context.Context, name string) (v1.Artifact, error) {
	all, err := o.list(ctx)
	if err != nil {
		return v1.Artifact{}, err
	}
	return findArtifact(all, name)
}

func (o *offlineArtifacts) open(ctx context.Context, e v1.Artifact, offset int64) (io.ReadCloser, error) {
	for _, have := range o.c.Artifacts {
		if have.Name == e.Name {
			return o.c.Open(ctx, have, offset)
		}
	}
	return nil, fmt.Errorf("%w: %s", artifact.ErrNone, e.Name)
}
