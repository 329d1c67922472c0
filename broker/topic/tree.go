package topic

import "strings"

// A Tree finds the subscriptions that match a topic name. Each is a filter and a key K, with a
// value V. The time of a search depends on the levels of the name and on the filters that match
// a part of it, not on how many others there are; it allocates nothing.
//
// Filters must be valid, and without the prefix of a shared subscription. The zero Tree is empty
// and ready. A Tree does not lock: any number of Match may run at the same time, but not
// beside Set or Delete.
type Tree[K comparable, V any] struct {
	root node[K, V]
	// edges and places are maps of the whole tree, since one per node costs more memory than
	// everything else.
	edges  map[edge[K, V]]*node[K, V]
	places map[place[K, V]]int // index in the node's entries
	levels int
}

// A node stands for the levels of a filter up to one of them.
type node[K comparable, V any] struct {
	plus, hash *node[K, V]
	children   int    // edges that start here
	filter     string // empty while there are no entries
	entries    []entry[K, V]
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

// An edge leads from a node to the next by a level that is no wildcard.
type edge[K comparable, V any] struct {
	from  *node[K, V]
	level string
}

type place[K comparable, V any] struct {
	node *node[K, V]
	key  K
}

// Len returns the number of subscriptions.
func (t *Tree[K, V]) Len() int { return len(t.places) }

// Levels returns the number of levels that the filters have, those that they share counted once.
func (t *Tree[K, V]) Levels() int { return t.levels }

// Set adds a subscription, or replaces the value of the one with the same filter and key.
func (t *Tree[K, V]) Set(filter string, k K, v V) (replaced bool) {
	n := &t.root
	for rest, more := filter, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		n = t.grow(n, level)
	}
	if i, ok := t.places[place[K, V]{n, k}]; ok {
		n.entries[i].value = v
		return true
	}
	if t.places == nil {
		t.places = make(map[place[K, V]]int)
	}
	if len(n.entries) == 0 {
		n.filter = filter
	}
	t.places[place[K, V]{n, k}] = len(n.entries)
	n.entries = append(n.entries, entry[K, V]{k, v})
	return false
}

// grow returns the node one level below n, and makes it if need be.
func (t *Tree[K, V]) grow(n *node[K, V], level string) *node[K, V] {
	next := t.step(n, level)
	if next != nil {
		return next
	}
	next = new(node[K, V])
	t.levels++
	switch level {
	case "+":
		n.plus = next
	case "#":
		n.hash = next
	default:
		if t.edges == nil {
			t.edges = make(map[edge[K, V]]*node[K, V])
		}
		// A level of its own: the edge may outlive the filter that it was cut from.
		t.edges[edge[K, V]{n, strings.Clone(level)}] = next
		n.children++
	}
	return next
}

// step returns the node one level below n, nil if there is none.
func (t *Tree[K, V]) step(n *node[K, V], level string) *node[K, V] {
	switch level {
	case "+":
		return n.plus
	case "#":
		return n.hash
	}
	return t.edges[edge[K, V]{n, level}]
}

// Delete removes a subscription, and the branch that only it needed. It reports whether there
// was one.
func (t *Tree[K, V]) Delete(filter string, k K) bool {
	return t.remove(&t.root, filter, k)
}

func (t *Tree[K, V]) remove(n *node[K, V], filter string, k K) bool {
	level, rest, more := strings.Cut(filter, "/")
	next := t.step(n, level)
	if next == nil {
		return false
	}
	if more {
		if !t.remove(next, rest, k) {
			return false
		}
	} else if !t.drop(next, k) {
		return false
	}
	if next.empty() {
		t.cut(n, level)
	}
	return true
}

// drop removes an entry of a node; the last one takes its place.
func (t *Tree[K, V]) drop(n *node[K, V], k K) bool {
	i, ok := t.places[place[K, V]{n, k}]
	if !ok {
		return false
	}
	delete(t.places, place[K, V]{n, k})
	last := len(n.entries) - 1
	if i != last {
		n.entries[i] = n.entries[last]
		t.places[place[K, V]{n, n.entries[i].key}] = i
	}
	n.entries[last] = entry[K, V]{}
	n.entries = n.entries[:last]
	if last == 0 {
		n.filter, n.entries = "", nil
	}
	return true
}

func (n *node[K, V]) empty() bool {
	return len(n.entries) == 0 && n.children == 0 && n.plus == nil && n.hash == nil
}

// cut removes the node one level below n.
func (t *Tree[K, V]) cut(n *node[K, V], level string) {
	t.levels--
	switch level {
	case "+":
		n.plus = nil
	case "#":
		n.hash = nil
	default:
		delete(t.edges, edge[K, V]{n, level})
		n.children--
	}
}

// Match calls visit for every subscription whose filter matches the name, in no particular
// order. A key comes once for each of its filters. visit must not change the tree.
func (t *Tree[K, V]) Match(name string, visit func(filter string, k K, v V)) {
	t.match(&t.root, name, !hidden(name), visit)
}

// match goes on below n with the rest of a name; wild says whether wildcards may match its first
// level.
func (t *Tree[K, V]) match(n *node[K, V], name string, wild bool, visit func(string, K, V)) {
	level, rest, more := strings.Cut(name, "/")
	if wild {
		n.hash.each(visit)
		t.descend(n.plus, rest, more, visit)
	}
	if n.children > 0 {
		t.descend(t.edges[edge[K, V]{n, level}], rest, more, visit)
	}
}

// descend goes on at a node that has matched one more level.
func (t *Tree[K, V]) descend(n *node[K, V], rest string, more bool, visit func(string, K, V)) {
	if n == nil {
		return
	}
	if more {
		t.match(n, rest, true, visit)
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
