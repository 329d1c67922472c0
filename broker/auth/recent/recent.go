// Package recent is a table of bounded size: what was not used for the longest time makes room for
// what is new. It bounds the memory of whatever strangers can fill.
package recent

// A Table has the values that were used last, by key. The zero value is not usable, and it is not
// safe for several goroutines: whoever has one has a lock beside it.
type Table[K comparable, V any] struct {
	most int
	rows map[K]*row[K, V]
	// ring is neither a key nor a value: it is between the row used last, its next, and the one used
	// least recently.
	ring row[K, V]
}

type row[K comparable, V any] struct {
	before, next *row[K, V]
	key          K
	value        V
}

// New returns an empty table for at most so many values.
func New[K comparable, V any](most int) *Table[K, V] {
	t := &Table[K, V]{most: max(1, most), rows: make(map[K]*row[K, V])}
	t.ring.before, t.ring.next = &t.ring, &t.ring
	return t
}

// leave takes a row out of the ring.
func (r *row[K, V]) leave() { r.before.next, r.next.before = r.next, r.before }

// enter puts a row into the ring after another.
func (r *row[K, V]) enter(after *row[K, V]) {
	r.before, r.next = after, after.next
	r.before.next, r.next.before = r, r
}

// Get returns a value, which is the one used last from now on.
func (t *Table[K, V]) Get(key K) (value V, ok bool) {
	r, ok := t.rows[key]
	if !ok {
		return value, false
	}
	r.leave()
	r.enter(&t.ring)
	return r.value, true
}

// Put sets a value, in place of the one used least recently if there is no room.
func (t *Table[K, V]) Put(key K, value V) {
	if r, ok := t.rows[key]; ok {
		r.value = value
		r.leave()
		r.enter(&t.ring)
		return
	}
	if len(t.rows) >= t.most {
		t.Delete(t.ring.before.key)
	}
	r := &row[K, V]{key: key, value: value}
	r.enter(&t.ring)
	t.rows[key] = r
}

// Delete removes a value, if it is there.
func (t *Table[K, V]) Delete(key K) {
	if r, ok := t.rows[key]; ok {
		delete(t.rows, key)
		r.leave()
	}
}

// Drop removes the values that unwanted says so of.
func (t *Table[K, V]) Drop(unwanted func(K, V) bool) {
	for key, r := range t.rows {
		if unwanted(key, r.value) {
			delete(t.rows, key)
			r.leave()
		}
	}
}

// Len returns how many values there are.
func (t *Table[K, V]) Len() int { return len(t.rows) }
