package offline

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"sort"

	"gateway/broker/session"
)

// A wreck reads a damaged file, and finds more in it than its newest commit leads to: what is below a page
// that cannot be read may be in the tree of the commit before, or on pages that nothing leads to.
//
// Such pages may be old: bbolt leaves them as they are until it needs room. What is on them counts only where
// something is lost, and as far as it cannot bring back what is over: messages behind the cursor of
// their queue and bodies of messages are what they always were, a cursor only moves on, the sessions
// are those that have a cursor, and a later message of a topic takes the place of an earlier one. Identifiers of incoming
// messages are not taken: one that is free by now would cost a message, one that is missing only doubles one.
type wreck struct {
	*imageSource
	older  *imageSource // as of the commit before; empty if there is none
	lost   [buckets][]span
	leaves *[buckets][]leaf   // of the whole file, nil: not looked for yet
	known  map[uint64]*cursor // once they are read
}

// openWreck opens what is left of a file.
func openWreck(f readable, bad func(error)) (*wreck, error) {
	src, err := openImage(f, bad)
	if err != nil {
		return nil, err
	}
	w := &wreck{imageSource: src, older: &imageSource{bad: func(error) {}}}
	if before := src.im.before(); before != nil {
		w.older = newImageSource(before, func(error) {})
	}
	return w, nil
}

func (w *wreck) each(bucket int, fn func(key, rec []byte) error) error {
	return w.walk(bucket, func(s span) error {
		s = span{bytes.Clone(s.low), bytes.Clone(s.high)}
		w.lost[bucket] = append(w.lost[bucket], s)
		return w.find(bucket, s, fn)
	}, fn)
}

// find visits what can be found of a span in which the newest commit has lost something.
func (w *wreck) find(bucket int, s span, fn func(key, rec []byte) error) error {
	switch bucket {
	case bucketReceived, bucketRefs:
		return nil
	case bucketQueue, bucketBodies, bucketCursors:
		return w.merge(bucket, s, nil, fn)
	}
	return w.merge(bucket, s, w.recall(bucket, s), fn)
}

// A memory is what the commit before knew of a span, if all of that can be read.
type memory struct {
	pages  map[uint64]struct{} // of the bucket
	roots  map[uint64]struct{} // which may have the bucket within them
	newest stamp               // of retained messages
}

func (m *memory) has(l leaf) bool {
	pages := m.pages
	if l.element >= 0 {
		pages = m.roots
	}
	_, ok := pages[l.page]
	return ok
}

// recall returns what the commit before knew of a span, nil if not all of it can be read.
func (w *wreck) recall(bucket int, s span) *memory {
	whole := true
	m := &memory{pages: make(map[uint64]struct{}), roots: w.older.seen}
	older := imageSource{im: w.older.im, seen: m.pages, trees: w.older.trees, bad: func(error) {}}
	_ = older.walk(bucket, func(o span) error { // it fails only if the functions do
		whole = whole && (!s.before(o.low) || o.high != nil && bytes.Compare(o.high, s.low) <= 0)
		return nil
	}, func(_, rec []byte) error {
		if bucket == bucketRetained && len(rec) > sealSize {
			if at := parseStamp(&parser{b: rec[sealSize:]}); at.after(m.newest) {
				m.newest = at
			}
		}
		return nil
	})
	if !whole {
		return nil
	}
	return m
}

// choose returns which of two records with the same key counts, nil for none: the one that the commit before had,
// or another, which is of the last commit or of any before these two.
func (m *memory) choose(bucket int, had, other []byte) []byte {
	switch {
	case other == nil:
		return had
	case bucket == bucketSessions: // cursors tell whether one is over
		if had == nil || sessionNumber(other) > sessionNumber(had) {
			return other
		}
	case bucket == bucketRetained:
		if parseStamp(&parser{b: other[sealSize:]}).after(m.newest) {
			return other
		}
	}
	return had
}

func sessionNumber(rec []byte) uint64 {
	if s, err := parseSession(rec); err == nil {
		return s.number
	}
	return 0
}

func (w *wreck) get(bucket int, key []byte) (rec []byte) {
	if rec = w.imageSource.get(bucket, key); rec != nil || bucket == bucketReceived || bucket == bucketRefs {
		return rec
	}
	if rec = w.older.get(bucket, key); rec != nil {
		return rec
	}
	only := span{key, append(bytes.Clone(key), 0)}
	_ = w.merge(bucket, only, nil, func(_, one []byte) error { // it fails only if the function does
		rec = one
		return nil
	})
	return rec
}

// misses reports whether a key is where the newest commit has lost something.
func (w *wreck) misses(bucket int, key []byte) bool {
	return slices.ContainsFunc(w.lost[bucket], func(s span) bool { return s.has(key) })
}

// facts is facts for a wreck; lost is told how many messages at most each session has lost. A session whose own
// record is lost has no name any more.
func (w *wreck) facts(when calendar, now stamp, bad func(error), lost func(client string, messages int64), emit func(session.Change) error) error {
	c, err := readContents(w, bad)
	if err != nil {
		return err
	}
	w.judge(c)
	if err := c.queues(w, when, bad, emit); err != nil {
		return err
	}
	names := make(map[uint64]bool)
	for _, s := range c.sessions {
		names[s.number] = true
		if n := w.account(c, s, now); n > 0 {
			lost(s.client, n)
		}
	}
	for number, at := range c.cursors {
		// One that nothing leads to may be old, and its session over.
		if !names[number] && !at.removed && !w.misses(bucketCursors, numberKey(number)) {
			lost("", at.waiting())
		}
	}
	return c.rest(w, when, bad, emit)
}

// judge leaves out sessions that are over.
func (w *wreck) judge(c *contents) {
	c.sessions = slices.DeleteFunc(c.sessions, func(s *sessionRecord) bool {
		at, doubt := c.cursors[s.number], w.misses(bucketCursors, numberKey(s.number))
		if at != nil && at.removed && doubt { // by a commit that failed, for the session is there
			delete(c.cursors, s.number)
		}
		return w.misses(bucketSessions, nameKey(nil, s.client)) && !doubt && (at == nil || at.removed)
	})
	w.known = c.cursors
}

// account returns how many messages of a session's queue are lost, by what its cursor says, and puts
// them in its books. Where the cursor itself may be an old one that is more than there were, and identifiers
// have been given out that it does not know of.
func (w *wreck) account(c *contents, s *sessionRecord, now stamp) (lost int64) {
	at, f := c.cursors[s.number], c.found[s.number]
	next := f.last + 1
	if at != nil {
		next = max(next, at.next)
	}
	if w.misses(bucketCursors, numberKey(s.number)) || at == nil {
		c.strange[s.number] = max(c.strange[s.number], strangeAfter(next))
	}
	if at == nil {
		return 0
	}
	if lost = at.waiting() - f.messages; lost <= 0 {
		return 0
	}
	p := at.part(0)
	t := &p.dropped[session.Lost]
	if t.count == 0 {
		t.first, t.since = at.head, now
	}
	t.count, t.bytes = t.count+lost, t.bytes+max(at.bytes-f.bytes, 0)
	t.last, t.until = at.next-1, now
	at.setPart(0, p)
	return lost
}

// A leaf is a page with records, or the records of a small bucket within the value that names it.
type leaf struct {
	page        uint64
	element     int // -1: the page itself
	first, last []byte
	reach       []byte // the highest last key up to here, in the order of index
}

// index returns the leaves of a bucket in the order of their first keys, whether something leads to them or
// not.
func (w *wreck) index(bucket int) []leaf {
	if w.leaves != nil {
		return w.leaves[bucket]
	}
	w.leaves = new([buckets][]leaf)
	for id := uint64(2); id < w.im.pages; id++ {
		n, pages, err := w.im.loadLeaf(id)
		if err != nil {
			continue
		}
		if w.note(leaf{page: id, element: -1}, n) {
			id += uint64(pages) - 1 // what is within a value is no page, whatever a client has made it look like
		}
		for i := range n.count {
			if in, err := n.inline(i); err == nil {
				w.note(leaf{page: id, element: i}, in)
			}
		}
	}
	for _, leaves := range w.leaves {
		slices.SortFunc(leaves, func(a, b leaf) int {
			return cmp.Or(bytes.Compare(a.first, b.first), cmp.Compare(a.page, b.page), cmp.Compare(a.element, b.element))
		})
		var reach []byte
		for i := range leaves {
			if bytes.Compare(leaves[i].last, reach) > 0 {
				reach = leaves[i].last
			}
			leaves[i].reach = reach
		}
	}
	return w.leaves[bucket]
}

// note adds a leaf to its bucket, if that can be told from its records.
func (w *wreck) note(l leaf, n node) bool {
	for i := range n.count {
		if bucket := bucketOf(n.key(i), n.value(i)); bucket >= 0 {
			l.first, l.last = bytes.Clone(n.key(0)), bytes.Clone(n.key(n.count-1))
			w.leaves[bucket] = append(w.leaves[bucket], l)
			return true
		}
	}
	return false
}

// load reads a leaf again.
func (w *wreck) load(l leaf) (node, error) {
	n, _, err := w.im.loadLeaf(l.page)
	if err != nil || l.element < 0 {
		return n, err
	}
	if l.element >= n.count {
		return node{}, errNoLeaf
	}
	return n.inline(l.element)
}

// merge visits the records of a span that any leaf has, in order, and of those with the same key the
// latest, or the one that m chooses.
func (w *wreck) merge(bucket int, s span, m *memory, fn func(key, rec []byte) error) error {
	type place struct {
		node
		at  int
		had bool // by the commit before
	}
	var open []place
	leaves := w.index(bucket)
	leaves = leaves[sort.Search(len(leaves), func(i int) bool { return bytes.Compare(leaves[i].reach, s.low) >= 0 }):]
	for {
		var key []byte
		for _, p := range open {
			if k := p.key(p.at); key == nil || bytes.Compare(k, key) < 0 {
				key = k
			}
		}
		if len(leaves) > 0 && (key == nil || bytes.Compare(leaves[0].first, key) <= 0) {
			l := leaves[0]
			if leaves = leaves[1:]; bytes.Compare(l.last, s.low) < 0 || !s.before(l.first) {
				continue
			}
			n, err := w.load(l)
			if err != nil {
				continue // it could be read a moment ago
			}
			at := 0
			for at < n.count && bytes.Compare(n.key(at), s.low) < 0 {
				at++
			}
			if at < n.count {
				open = append(open, place{n, at, m != nil && m.has(l)})
			}
			continue
		}
		if key == nil || !s.before(key) {
			return nil
		}
		var had, best []byte
		key = bytes.Clone(key)
		for i := range open {
			p := &open[i]
			if !bytes.Equal(p.key(p.at), key) {
				continue
			}
			rec := p.value(p.at)
			p.at++
			switch {
			case bucketOf(key, rec) != bucket:
			case p.had:
				had = rec
			case best == nil || later(bucket, rec, best):
				best = rec
			}
		}
		if m != nil {
			best = m.choose(bucket, had, best)
		}
		open = slices.DeleteFunc(open, func(p place) bool { return p.at == p.count })
		if best != nil && w.counts(bucket, key) {
			if err := fn(key, best); err != nil {
				return err
			}
		}
	}
}

// counts reports whether a record that nothing leads to may count: a message only if it is one that the
// cursor of its queue knows of, unless that may be an old one itself.
func (w *wreck) counts(bucket int, key []byte) bool {
	if bucket != bucketQueue {
		return true
	}
	at := w.known[keyNumber(key)]
	return at != nil && (keyNumber(key[8:]) < at.next || w.misses(bucketCursors, key[:8]))
}

// bucketOf returns the bucket that a record is from, by what it says itself, or -1.
func bucketOf(key, rec []byte) int {
	if s, err := parseSession(rec); err == nil && bytes.Equal(key, nameKey(nil, s.client)) {
		return bucketSessions
	}
	if len(key) > 8 {
		if s, _, err := parseSubscription(rec); err == nil && bytes.Equal(key, nameKey(key[:8], s.Filter)) {
			return bucketSubscriptions
		}
	}
	m, err := sealedMessage(rec, recorded)
	switch {
	case err == nil && bytes.Equal(key, nameKey(nil, m.Publish.Topic)):
		return bucketRetained
	case err == nil && len(key) == 8:
		return bucketBodies
	case len(key) == 16:
		q, err := parseQueued(rec)
		if err == nil && q.body == 0 {
			_, err = message(q.message, recorded)
		}
		if err == nil {
			return bucketQueue
		}
	case len(key) == 8:
		if b, err := unsealVersion(rec, cursorVersion); err != nil || len(b) < 5 { // else it is a number of references
			return -1
		}
		if _, err := parseCursor(rec); err == nil {
			return bucketCursors
		}
	case bytes.Equal(key, keyFormat), bytes.Equal(key, keyBoot), bytes.Equal(key, keyStarts), bytes.Equal(key, keyStrange):
		if _, err := unseal(rec); err == nil {
			return bucketMeta
		}
	}
	return -1
}

// later reports whether of two records with the same key, which bucketOf knows, a was written after b, as
// far as they tell.
func later(bucket int, a, b []byte) bool {
	switch bucket {
	case bucketCursors:
		x, errX := parseCursor(a)
		y, errY := parseCursor(b)
		return errors.Join(errX, errY) == nil && x.age(y) > 0
	case bucketSessions: // one that is closed could expire too soon
		x, errX := parseSession(a)
		y, errY := parseSession(b)
		if errors.Join(errX, errY) != nil {
			return false
		}
		if x.number != y.number || x.closed == nil || y.closed == nil {
			return x.number > y.number || x.number == y.number && x.closed == nil && y.closed != nil
		}
		return x.closed.after(*y.closed)
	case bucketQueue:
		x, errX := parseQueued(a)
		y, errY := parseQueued(b)
		if errors.Join(errX, errY) != nil || x.body != 0 || y.body != 0 {
			return false
		}
		return parseStamp(&parser{b: x.message}).after(parseStamp(&parser{b: y.message}))
	case bucketRetained, bucketBodies:
		return parseStamp(&parser{b: a[sealSize:]}).after(parseStamp(&parser{b: b[sealSize:]}))
	}
	return false
}

// age compares two cursors of one session by how far they have come.
func (c *cursor) age(o *cursor) int {
	if c.removed != o.removed {
		return map[bool]int{true: 1, false: -1}[c.removed]
	}
	sum := func(c *cursor) (n uint64) {
		for _, stage := range c.stages {
			n += uint64(stage)
		}
		for _, p := range c.parts {
			for _, t := range p.dropped {
				n += uint64(t.count)
			}
		}
		return n
	}
	return cmp.Or(cmp.Compare(c.next, o.next), cmp.Compare(c.head, o.head), cmp.Compare(sum(c), sum(o)))
}

// after reports whether a stamp is later than another. Within one start of the machine its uptime tells.
func (s stamp) after(o stamp) bool {
	switch {
	case s.boot != o.boot && s.boot != 0 && o.boot != 0:
		return s.boot > o.boot
	case s.boot == o.boot && s.boot != 0:
		return s.uptime > o.uptime
	}
	return s.wall > o.wall
}
