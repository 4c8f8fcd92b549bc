package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/understudy-ha/understudy/api/client"
)

// demoKey is where the demo's number is in the persisted state.
const demoKey = "demo/counter"

// demoSaveLimit bounds one request to the node: it answers by the lease's end
// at the latest.
const demoSaveLimit = 5 * time.Second

// demoState keeps the number in the plane's persisted state, through the node
// that this service runs on. No check of the term is needed to keep a former
// service out: its node can not change anything once its reign is over. That
// two services of one node never run at once is the guard's business.
type demoState struct {
	node    *client.Client
	term    uint64
	version uint64 // of the key as it was last written or read; 0: it is not there
}

// openDemoState finds the node in the environment, where the demo puts it.
func openDemoState(term uint64) (demoStore, error) {
	endpoint := os.Getenv("DEMO_NODE")
	if endpoint == "" {
		return nil, usagef("DEMO_NODE is not set: the demo's service.env names the node this service runs on; give --dir to keep the number in a file")
	}
	opt := client.Options{User: os.Getenv("DEMO_USER"), Password: os.Getenv("DEMO_PASSWORD"), Here: true}
	if ca := os.Getenv("DEMO_CACERT"); ca != "" {
		b, err := os.ReadFile(ca) //nolint:gosec // the operator's choice
		if err != nil {
			return nil, err
		}
		opt.CA = b
	}
	c, err := client.New([]string{endpoint}, opt)
	if err != nil {
		return nil, err
	}
	return &demoState{node: c, term: term}, nil
}

func (d *demoState) load(ctx context.Context) (uint64, error) {
	for {
		f, err := d.read(ctx)
		if err == nil || ctx.Err() != nil || errors.Is(err, errSuperseded) || errors.Is(err, errNotDemo) {
			return f.Counter, err
		}
		select { // the node may not have come as far; if it never does, this service is stopped
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

var errNotDemo = errors.New("not the demo's counter; delete the key to begin at 0")

// read takes note of what the key holds.
func (d *demoState) read(ctx context.Context) (demoFile, error) {
	ctx, cancel := context.WithTimeout(ctx, demoSaveLimit)
	defer cancel()
	var f demoFile
	e, err := d.node.StateGet(ctx, demoKey)
	var refused *client.StatusError
	switch {
	case errors.As(err, &refused) && refused.Code == http.StatusNotFound:
		d.version = 0
		return f, nil
	case err != nil:
		return f, err
	}
	if err := json.Unmarshal(e.Value, &f); err != nil {
		return f, fmt.Errorf("key %s is %w (%w)", demoKey, errNotDemo, err)
	}
	if f.Term > d.term {
		return f, fmt.Errorf("key %s was written in term %d, this is term %d: %w", demoKey, f.Term, d.term, errSuperseded)
	}
	d.version = e.Version
	return f, nil
}

// save writes the number on top of what this service wrote last. If that is not
// what is there, an answer was lost on the way: it looks, and tries once more.
func (d *demoState) save(n uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), demoSaveLimit)
	defer cancel()
	b, err := json.Marshal(demoFile{Term: d.term, Counter: n})
	if err != nil {
		return err
	}
	for again := false; ; again = true {
		version, err := d.node.StatePut(ctx, demoKey, b, client.StateCondition{Version: d.version, Absent: d.version == 0})
		var refused *client.StatusError
		switch {
		case err == nil:
			d.version = version
			return nil
		case again || !errors.As(err, &refused) || refused.Code != http.StatusPreconditionFailed:
			return err
		}
		if _, err := d.read(ctx); err != nil {
			return err
		}
	}
}
