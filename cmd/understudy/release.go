package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/understudy-ha/understudy/persistence"
	"github.com/understudy-ha/understudy/pkg/config"
	"github.com/understudy-ha/understudy/pkg/election"
	"github.com/understudy-ha/understudy/pkg/ha"
	"github.com/understudy-ha/understudy/pkg/lease"
)

// releaseCommand is the hidden subcommand that a guard runs after the daemon
// has died and its service tree was proven gone (G3). It is dispatched ahead
// of the command line parser because it takes no flags.
const releaseCommand = "release-child"

// releaseOrder is what the daemon gives its guard in advance.
type releaseOrder struct {
	Location  string        `json:"location"`
	Operation time.Duration `json:"operation"` // limit of one store operation
	Limit     time.Duration `json:"limit"`     // of the whole attempt: T
}

func (o releaseOrder) encode() []byte {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err) // plain fields only
	}
	return b
}

// releaseChild writes the release of a dead run: read; while the register
// holds that run's held value of that term, swap it for the released one;
// undecided: read and repeat; anything else: done. args are term and
// incarnation.
func releaseChild(args []string, stdin io.Reader, stderr io.Writer) int {
	if err := releaseFor(args, stdin); err != nil {
		fmt.Fprintln(stderr, "release:", err)
		return exitFailed
	}
	return exitOK
}

func releaseFor(args []string, stdin io.Reader) error {
	if len(args) != 2 {
		return errors.New("wants a term and an incarnation; it is run by the guard only")
	}
	term, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil {
		return err
	}
	var o releaseOrder
	if err := json.NewDecoder(stdin).Decode(&o); err != nil {
		return err
	}
	loc, err := config.ParseLocation(o.Location)
	if err != nil {
		return err
	}
	store, err := openStore(loc, nil)
	if err != nil {
		return err
	}
	defer store.Close() // the process ends
	ctx, cancel := context.WithTimeout(context.Background(), o.Limit)
	defer cancel()
	for ctx.Err() == nil {
		done, err := releaseOnce(ctx, store, o.Operation, lease.Term(term), lease.Incarnation(args[1]))
		if done {
			return nil
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "release: trying again:", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(o.Operation / 10):
		}
	}
	return ctx.Err()
}

func releaseOnce(ctx context.Context, store persistence.Store, limit time.Duration, t lease.Term, inc lease.Incarnation) (done bool, err error) {
	rctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	s, err := store.Read(rctx)
	if err != nil {
		return false, err
	}
	v, err := lease.ParseValue(s.Value)
	if err != nil {
		return false, err
	}
	next, ours := election.ReleaseFor(v, t, inc, ha.NewWriteID())
	if !ours {
		return true, nil
	}
	wctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, err = store.CAS(wctx, s.Version, next.Encode())
	return err == nil, err
}
