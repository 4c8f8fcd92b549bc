// Command scheduler is a small job scheduler that survives the machine it runs
// on: a program that embeds package ha. Start it on several machines with one
// shared directory; one of them runs the jobs, the others wait. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/understudy-ha/understudy/persistence/posix"
	"github.com/understudy-ha/understudy/pkg/artifact"
	"github.com/understudy-ha/understudy/pkg/clock"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
)

func main() {
	store := flag.String("store", "", "the `directory` that all machines share")
	data := flag.String("data", "", "a `directory` of this machine")
	listen := flag.String("listen", "127.0.0.1:7001", "the `address` to listen on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *store, *data, *listen); err != nil {
		fmt.Fprintln(os.Stderr, "scheduler:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to be undone
	}
}

// run takes part in the plane until ctx ends.
func run(ctx context.Context, dir, data, listen string) error {
	if dir == "" || data == "" {
		return errors.New("give --store and --data; see --help")
	}
	store, err := posix.Open(dir, posix.Options{})
	if err != nil {
		return err
	}
	defer store.Close() // what counts was acknowledged
	memory, err := ha.OpenDir(data)
	if err != nil {
		return err
	}
	cache, err := artifact.OpenCache(filepath.Join(data, "cache"), 0)
	if err != nil {
		return err
	}
	timing, err := election.Derive(election.TimingRequest{Preset: "fast"})
	if err != nil {
		return err
	}
	log, err := zap.NewProduction()
	if err != nil {
		return err
	}
	s := &scheduler{submitted: make(chan struct{}, 1)}
	s.node, err = ha.New(store, ha.Options{
		Node: memory.Node(), Memory: memory, URI: "http://" + listen + "/", Clock: clock.Now, Timing: timing,
		HotStandby: true, AutoInit: true, Persist: &ha.Persist{}, Log: log,
		// Called in one process of the plane at a time, and ctx ends with the
		// reign: this is where the jobs are run.
		OnReign: s.work,
	})
	if err != nil {
		return err
	}
	index := artifact.StateIndex{Read: s.readIndex, Write: s.writeIndex}
	s.depot = artifact.Depot{Library: artifact.New(store, index, artifact.Options{}), Cache: cache}
	server := &http.Server{Addr: listen, Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		served <- server.ListenAndServe()
		cancel() // a node that nobody can reach must not be master
	}()
	err = s.node.Run(ctx)
	if serr := errors.Join(server.Close(), <-served); !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}
