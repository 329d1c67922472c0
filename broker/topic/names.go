package topic

import "strings"

// Names keeps one value per topic name and finds those that a filter matches, as retained
// messages need it. A filter without wildcards costs one look-up per level; with wildcards, the
// names that match a part of it.
//
// Names and filters must be valid; filters are without the prefix of a shared subscription. The
// zero Names is empty and ready. It does not lock: any number of Get and Match may run at the
// same time, but not beside Set or Delete.
type Names[V any] struct {
	root   branch[V]
	len    int
	levels int
}

// A branch stands for the levels of a name up to one of them.
type branch[V any] struct {
	children map[string]*branch[V] // nil if there are none
	name     string                // empty while there is no value
	value    V
}

// Len returns the number of names.
func (t *Names[V]) Len() int { return t.len }

// Levels returns the number of levels that the names have, those that they share counted once.
func (t *Names[V]) Levels() int { return t.levels }

// Set sets the value of a name.
func (t *Names[V]) Set(name string, v V) {
	b := &t.root
	for rest, more := name, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		next := b.children[level]
		if next == nil {
			if b.children == nil {
				b.children = make(map[string]*branch[V])
			}
			next = new(branch[V])
			t.levels++
			// A level of its own: it may outlive the name that it was cut from.
			b.children[strings.Clone(level)] = next
		}
		b = next
	}
	if b.name == "" {
		t.len++
	}
	b.name, b.value = name, v
}

// Get returns the value of a name.
func (t *Names[V]) Get(name string) (v V, ok bool) {
	b := &t.root
	for rest, more := name, true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		if b = b.children[level]; b == nil {
			return v, false
		}
	}
	return b.value, b.name != ""
}

// Delete removes a name, and the branch that only it needed. It reports whether there was one.
func (t *Names[V]) Delete(name string) bool {
	if !t.remove(&t.root, name) {
		return false
	}
	t.len--
	return true
}

func (t *Names[V]) remove(b *branch[V], name string) bool {
	level, rest, more := strings.Cut(name, "/")
	next := b.children[level]
	switch {
	case next == nil:
		return false
	case more:
		if !t.remove(next, rest) {
			return false
		}
	case next.name == "":
		return false
	default:
		var none V
		next.name, next.value = "", none
	}
	if next.name == "" && next.children == nil {
		delete(b.children, level)
		t.levels--
		if len(b.children) == 0 {
			b.children = nil
		}
	}
	return true
}

// Match calls visit for every name that the filter matches, in no particular order, until visit
// returns false. visit must not change the names.
func (t *Names[V]) Match(filter string, visit func(name string, v V) bool) {
	t.root.match(filter, true, visit)
}

// match goes on below b with the rest of a filter; first says that b is the root. It returns
// false to stop.
func (b *branch[V]) match(filter string, first bool, visit func(string, V) bool) bool {
	level, rest, more := strings.Cut(filter, "/")
	switch level {
	case "#":
		// What is at b itself is matched too: "#" includes the parent level.
		return b.visit(visit) && b.all(first, visit)
	case "+":
		for name, next := range b.children {
			if first && hidden(name) {
				continue
			}
			if !next.step(rest, more, visit) {
				return false
			}
		}
		return true
	}
	if next := b.children[level]; next != nil {
		return next.step(rest, more, visit)
	}
	return true
}

// step goes on at a branch that has matched one more level.
func (b *branch[V]) step(rest string, more bool, visit func(string, V) bool) bool {
	if more {
		return b.match(rest, false, visit)
	}
	return b.visit(visit)
}

// all visits everything below b.
func (b *branch[V]) all(first bool, visit func(string, V) bool) bool {
	for name, next := range b.children {
		if first && hidden(name) {
			continue
		}
		if !next.visit(visit) || !next.all(false, visit) {
			return false
		}
	}
	return true
}

func (b *branch[V]) visit(visit func(string, V) bool) bool {
	return b.name == "" || visit(b.name, b.value)
}
