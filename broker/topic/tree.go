package topic

import (
	"slices"
	"strings"
)

// A Tree finds the subscriptions that match a topic name. Each is a filter and a key K, with a
// value V. The time of a search depends on the levels of the name and on the filters that match
// a part of it, not on how many others there are; it allocates nothing.
//
// Filters must be valid, and without the prefix of a shared subscription. The zero Tree is empty
// and ready. A Tree does not lock: any number of Match may run at the same time, but not
// beside Set or Delete.
type Tree[K comparable, V any] struct {
	root   node[K, V]
	len    int
	levels int
}

// A node stands for the levels of a filter up to one of them. Most have few children and few
// entries, which are found sooner one after the other than by a map, and take less memory.
type node[K comparable, V any] struct {
	plus, hash *node[K, V]
	few        []edge[K, V]           // to children by a level that is no wildcard
	many       map[string]*node[K, V] // nil: the children are in few
	filter     string                 // empty while there are no entries
	entries    []entry[K, V]
	places     map[K]int // index in entries; nil: there are few
}

// few is up to how many children or entries a node has no map for them.
const few = 8

// An edge leads from a node to the next.
type edge[K comparable, V any] struct {
	level string
	to    *node[K, V]
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

// Len returns the number of subscriptions.
func (t *Tree[K, V]) Len() int { return t.len }

// Levels returns the number of levels that the filters have, those that they share counted once.
func (t *Tree[K, V]) Levels() int { return t.levels }

// Set adds a subscription, or replaces the value of the one with the same filter and key, which was old.
func (t *Tree[K, V]) Set(filter string, k K, v V) (old V, replaced bool) {
	n := &t.root
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		next := n.step(level)
		if next == nil {
			next = n.grow(level)
			t.levels++
		}
		n = next
	}
	if i := n.place(k); i >= 0 {
		old, n.entries[i].value = n.entries[i].value, v
		return old, true
	}
	n.filter = filter
	n.entries = append(n.entries, entry[K, V]{k, v})
	t.len++
	switch {
	case n.places != nil:
		n.places[k] = len(n.entries) - 1
	case len(n.entries) > few:
		n.places = make(map[K]int)
		for i := range n.entries {
			n.places[n.entries[i].key] = i
		}
	}
	return old, false
}

// place returns the index of a key among the entries, -1 if it is not there.
func (n *node[K, V]) place(k K) int {
	if n.places == nil {
		return slices.IndexFunc(n.entries, func(e entry[K, V]) bool { return e.key == k })
	}
	if i, ok := n.places[k]; ok {
		return i
	}
	return -1
}

// grow makes the node one level below n.
func (n *node[K, V]) grow(level string) *node[K, V] {
	next := new(node[K, V])
	switch level {
	case "+":
		n.plus = next
		return next
	case "#":
		n.hash = next
		return next
	}
	level = strings.Clone(level) // it may outlive the filter that it was cut from
	if n.many == nil && len(n.few) < few {
		n.few = append(n.few, edge[K, V]{level, next})
		return next
	}
	if n.many == nil {
		n.many = make(map[string]*node[K, V])
		for _, e := range n.few {
			n.many[e.level] = e.to
		}
		n.few = nil
	}
	n.many[level] = next
	return next
}

// step returns the node one level below n, nil if there is none.
func (n *node[K, V]) step(level string) *node[K, V] {
	switch level {
	case "+":
		return n.plus
	case "#":
		return n.hash
	}
	return n.child(level)
}

// child is step for a level that is no wildcard.
func (n *node[K, V]) child(level string) *node[K, V] {
	if n.many != nil {
		return n.many[level]
	}
	for i := range n.few {
		if n.few[i].level == level {
			return n.few[i].to
		}
	}
	return nil
}

// Delete removes a subscription, and the branch that only it needed. It reports whether there
// was one.
func (t *Tree[K, V]) Delete(filter string, k K) bool {
	return t.remove(&t.root, filter, k)
}

func (t *Tree[K, V]) remove(n *node[K, V], filter string, k K) bool {
	level, rest, more := strings.Cut(filter, "/")
	next := n.step(level)
	if next == nil {
		return false
	}
	if more {
		if !t.remove(next, rest, k) {
			return false
		}
	} else {
		if !next.drop(k) {
			return false
		}
		t.len--
	}
	if next.empty() {
		n.cut(level)
		t.levels--
	}
	return true
}

// drop removes an entry of a node; the last one takes its place.
func (n *node[K, V]) drop(k K) bool {
	i := n.place(k)
	if i < 0 {
		return false
	}
	last := len(n.entries) - 1
	if n.places != nil {
		n.places[n.entries[last].key] = i
		delete(n.places, k)
	}
	n.entries[i] = n.entries[last]
	n.entries[last] = entry[K, V]{}
	n.entries = n.entries[:last]
	if last == 0 {
		n.filter, n.entries, n.places = "", nil, nil
	}
	return true
}

func (n *node[K, V]) empty() bool {
	return len(n.entries) == 0 && len(n.few) == 0 && len(n.many) == 0 && n.plus == nil && n.hash == nil
}

// cut removes the node one level below n.
func (n *node[K, V]) cut(level string) {
	switch level {
	case "+":
		n.plus = nil
	case "#":
		n.hash = nil
	default:
		delete(n.many, level)
		if len(n.many) == 0 {
			n.many = nil
		}
		n.few = slices.DeleteFunc(n.few, func(e edge[K, V]) bool { return e.level == level })
	}
}

// Match calls visit for every subscription whose filter matches the name, in no particular
// order. A key comes once for each of its filters. visit must not change the tree.
func (t *Tree[K, V]) Match(name string, visit func(filter string, k K, v V)) {
	t.root.match(name, !hidden(name), visit)
}

// match goes on below n with the rest of a name; wild says whether wildcards may match its first
// level.
func (n *node[K, V]) match(name string, wild bool, visit func(string, K, V)) {
	level, rest, more := strings.Cut(name, "/")
	if wild {
		n.hash.each(visit)
		n.plus.descend(rest, more, visit)
	}
	n.child(level).descend(rest, more, visit)
}

// descend goes on at a node that has matched one more level.
func (n *node[K, V]) descend(rest string, more bool, visit func(string, K, V)) {
	if n == nil {
		return
	}
	if more {
		n.match(rest, true, visit)
		return
	}
	n.each(visit)
	n.hash.each(visit) // "#" includes the parent level
}

func (n *node[K, V]) each(visit func(string, K, V)) {
	if n == nil {
		return
	}
	for i := range n.entries {
		visit(n.filter, n.entries[i].key, n.entries[i].value)
	}
}
