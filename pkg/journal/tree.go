package journal

import (
	"hash/maphash"
	"iter"
)

// Entry is one key of a state.
type Entry struct {
	Key     string
	Value   []byte // shared by everybody: never change it
	Version uint64 // sequence number of the transaction that wrote it
}

// tree is a sorted map that is never changed: put and remove return another one
// that shares most of its nodes. A treap: as deep as chance makes it, which is
// some times log n.
type tree struct {
	root  *node
	count int
	bytes int64 // keys and values
}

type node struct {
	Entry
	order       uint64 // above those of both children
	left, right *node
}

// seed makes the shape of trees nobody's choice.
var seed = maphash.MakeSeed()

func newNode(e Entry) *node { return &node{Entry: e, order: maphash.String(seed, e.Key)} }

func (t tree) get(key string) (Entry, bool) {
	for n := t.root; n != nil; {
		switch {
		case key == n.Key:
			return n.Entry, true
		case key < n.Key:
			n = n.left
		default:
			n = n.right
		}
	}
	return Entry{}, false
}

func (t tree) put(e Entry) tree {
	old, had := t.get(e.Key)
	if had {
		t.bytes -= int64(len(old.Key) + len(old.Value))
	} else {
		t.count++
	}
	t.bytes += int64(len(e.Key) + len(e.Value))
	t.root = t.root.put(newNode(e))
	return t
}

// put returns a node of its own, in whose place the caller may put another.
func (n *node) put(x *node) *node {
	if n == nil {
		return x
	}
	c := *n
	switch {
	case x.Key == n.Key:
		c.Entry = x.Entry
	case x.Key < n.Key:
		c.left = n.left.put(x)
		if l := c.left; l.order > c.order {
			c.left, l.right = l.right, &c
			return l
		}
	default:
		c.right = n.right.put(x)
		if r := c.right; r.order > c.order {
			c.right, r.left = r.left, &c
			return r
		}
	}
	return &c
}

func (t tree) remove(key string) tree {
	old, had := t.get(key)
	if !had {
		return t
	}
	t.count--
	t.bytes -= int64(len(old.Key) + len(old.Value))
	t.root = t.root.remove(key)
	return t
}

// remove takes out a key that is there.
func (n *node) remove(key string) *node {
	if key == n.Key {
		return merge(n.left, n.right)
	}
	c := *n
	if key < n.Key {
		c.left = n.left.remove(key)
	} else {
		c.right = n.right.remove(key)
	}
	return &c
}

// merge joins two trees, the keys of a before those of b.
func merge(a, b *node) *node {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.order > b.order:
		c := *a
		c.right = merge(a.right, b)
		return &c
	}
	c := *b
	c.left = merge(a, b.left)
	return &c
}

// from yields the entries whose keys are not before key, in order.
func (t tree) from(key string) iter.Seq[Entry] {
	return func(yield func(Entry) bool) { t.root.walk(key, yield) }
}

func (n *node) walk(key string, yield func(Entry) bool) bool {
	if n == nil {
		return true
	}
	if key < n.Key && !n.left.walk(key, yield) {
		return false
	}
	if key <= n.Key && !yield(n.Entry) {
		return false
	}
	return n.right.walk(key, yield)
}

// builder makes a tree out of entries that come in order, each in constant time
// on average.
type builder struct {
	t     tree
	spine []*node // from the root to the right, all of them still our own
}

func (b *builder) add(e Entry) {
	x := newNode(e)
	b.t.count++
	b.t.bytes += int64(len(e.Key) + len(e.Value))
	k := len(b.spine)
	for k > 0 && b.spine[k-1].order < x.order {
		k--
	}
	if k < len(b.spine) {
		x.left = b.spine[k]
	}
	if k > 0 {
		b.spine[k-1].right = x
	}
	b.spine = append(b.spine[:k], x)
}

func (b *builder) tree() tree {
	if len(b.spine) > 0 {
		b.t.root = b.spine[0]
	}
	return b.t
}
