package artifact

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-ha/understudy/persistence"
)

// staleAfter is how long nothing may have been added to what a push has begun
// to store before it counts as cut off. A push that lives is given up by itself
// after Options.Stall.
const staleAfter = time.Hour

// Collected is what a collection has removed.
type Collected struct {
	Objects   int   // that no name means any more
	Bytes     int64 // of these
	Leftovers int   // of pushes that were cut off while storing
}

// Collect removes objects that no name means, and what interrupted pushes have
// left in the store; both only if older than the retention. It is for the
// master of the reign. A node that has ceased to be master without knowing
// deletes nothing that anybody needs, see the package comment.
func (l *Library) Collect(ctx context.Context, in Reign, retention time.Duration) (Collected, error) {
	var c Collected
	listed, err := l.objects(ctx)
	if err != nil {
		return c, err
	}
	// After the listing: an object that was stored since is not in it.
	garbage, err := l.garbage(ctx, listed, in, retention)
	if err != nil {
		return c, err
	}
	for _, it := range garbage {
		if err := l.store.Delete(ctx, it.Key); err != nil {
			return c, fmt.Errorf("remove %s: %w", it.Key, err)
		}
		l.mu.Lock()
		delete(l.dead, strings.TrimPrefix(it.Key, Prefix))
		l.mu.Unlock()
		c.Objects, c.Bytes = c.Objects+1, c.Bytes+it.Size
	}
	c.Leftovers, err = l.sweep(ctx, max(retention, staleAfter))
	return c, err
}

func (l *Library) objects(ctx context.Context) ([]persistence.Item, error) {
	var all []persistence.Item
	for after, more := "", true; more; {
		page, err := l.store.List(ctx, Prefix, after)
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", Prefix, err)
		}
		for _, it := range page.Items {
			after = it.Key
			all = append(all, it)
		}
		more = page.More && len(page.Items) > 0
	}
	return all, nil
}

// garbage picks from a listing what the index does not name and never will.
func (l *Library) garbage(ctx context.Context, listed []persistence.Item, in Reign, retention time.Duration) ([]persistence.Item, error) {
	entries, err := l.index.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the artifacts: %w", err)
	}
	named := map[string]bool{}
	for _, e := range entries {
		named[e.Object] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []persistence.Item
	for _, it := range listed {
		name := strings.TrimPrefix(it.Key, Prefix)
		o, err := parseObject(name)
		switch {
		case err != nil, o.plane != in.Plane: // somebody else's
		case named[name], o.term > in.Term, o.term == in.Term && !l.dead[name]:
		case l.opts.Now().Sub(o.pushed) < retention:
		default:
			out = append(out, it)
		}
	}
	return out, nil
}

// sweep removes what the store itself has of pushes that were cut off.
func (l *Library) sweep(ctx context.Context, age time.Duration) (int, error) {
	s, ok := l.store.(persistence.Sweeper)
	if !ok {
		return 0, nil
	}
	left, err := s.Sweep(ctx, Prefix, age, true)
	if errors.Is(err, persistence.Unsupported) {
		return 0, nil
	}
	if err != nil {
		return len(left), fmt.Errorf("remove what interrupted pushes have left: %w", err)
	}
	return len(left), nil
}

// Leftovers lists what pushes that were cut off have left in the store, no
// younger than age. Empty where the store can not tell.
func (l *Library) Leftovers(ctx context.Context, age time.Duration) ([]persistence.Entry, error) {
	s, ok := l.store.(persistence.Sweeper)
	if !ok {
		return nil, nil
	}
	left, err := s.Sweep(ctx, Prefix, age, false)
	if errors.Is(err, persistence.Unsupported) {
		return nil, nil
	}
	return left, err
}
