// Package recent is a table of bounded size: what was not used for the longest time makes room for
// what is new. It bounds the memory of whatever strangers can fill.
package recent

import "container/list"

// A Table has the values that were used last, by key. The zero value is not usable, and it is not
// safe for several goroutines: whoever has one has a lock beside it.
type Table[K comparable, V any] struct {
	most  int
	rows  map[K]*list.Element
	order list.List // of *row[K, V], the one used last in front
}

type row[K comparable, V any] struct {
	key   K
	value V
}

// New returns an empty table for at most so many values.
func New[K comparable, V any](most int) *Table[K, V] {
	return &Table[K, V]{most: max(1, most), rows: make(map[K]*list.Element)}
}

// Get returns a value, which is the one used last from now on.
func (t *Table[K, V]) Get(key K) (value V, ok bool) {
	e, ok := t.rows[key]
	if !ok {
		return value, false
	}
	t.order.MoveToFront(e)
	return e.Value.(*row[K, V]).value, true
}

// Put sets a value, in place of the one used least recently if there is no room.
func (t *Table[K, V]) Put(key K, value V) {
	if e, ok := t.rows[key]; ok {
		e.Value.(*row[K, V]).value = value
		t.order.MoveToFront(e)
		return
	}
	if len(t.rows) >= t.most {
		last := t.order.Back()
		delete(t.rows, last.Value.(*row[K, V]).key)
		t.order.Remove(last)
	}
	t.rows[key] = t.order.PushFront(&row[K, V]{key, value})
}

// Delete removes a value, if it is there.
func (t *Table[K, V]) Delete(key K) {
	if e, ok := t.rows[key]; ok {
		delete(t.rows, key)
		t.order.Remove(e)
	}
}

// Drop removes the values that unwanted says so of.
func (t *Table[K, V]) Drop(unwanted func(K, V) bool) {
	for key, e := range t.rows {
		if unwanted(key, e.Value.(*row[K, V]).value) {
			delete(t.rows, key)
			t.order.Remove(e)
		}
	}
}

// Len returns how many values there are.
func (t *Table[K, V]) Len() int { return len(t.rows) }
