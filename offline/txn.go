package offline

import (
	"bytes"
	"maps"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// A txn is one transaction of the committer. What it changes in memory are copies, which take
// the place of the originals when the transaction is on disk.
type txn struct {
	tx       *bolt.Tx
	opened   [buckets]*bolt.Bucket
	cursors  map[uint64]*cursor // as of the last commit
	touched  map[uint64]*cursor // changed by this transaction
	messages int64              // put into queues

	clock        *clock
	now          stamp                // for what is dropped
	room         int64                // bytes that may still be added to the file, about
	short        bool                 // there was too little of it
	unreferenced map[uint64]uint64    // how many records have gone that refer to a body
	placed       map[uint64][]*target // by session: what this transaction has put and may drop again
}

func (c *committer) newTxn(tx *bolt.Tx) *txn {
	return &txn{
		tx: tx, cursors: c.cursors, touched: make(map[uint64]*cursor), unreferenced: make(map[uint64]uint64),
		placed: make(map[uint64][]*target),
		clock:  c.clock, now: c.clock.stamp(time.Now(), 0), room: c.maxBytes - c.used,
	}
}

func (t *txn) bucket(i int) *bolt.Bucket {
	if t.opened[i] == nil {
		b := t.tx.Bucket(bucketNames[i])
		switch i {
		case bucketQueue, bucketBodies, bucketRefs:
			b.FillPercent = 1 // keys are appended: leave no room for others between them
		}
		t.opened[i] = b
	}
	return t.opened[i]
}

// given notes the highest number that was given to anything in a bucket. None is given twice, or what is
// left on free pages could be taken for what bears the number now, when a damaged file is saved.
func given(b *bolt.Bucket, n uint64) error {
	if n > b.Sequence() {
		return b.SetSequence(n)
	}
	return nil
}

// session returns the cursor of a session, ready to be changed, and nil if there is no such
// session.
func (t *txn) session(number uint64) *cursor {
	if c := t.touch(number); c != nil && !c.removed {
		return c
	}
	return nil
}

// peek returns the cursor of a session, which is not to be changed, and nil if there is no such
// session.
func (t *txn) peek(number uint64) *cursor {
	c := t.touched[number]
	if c == nil {
		c = t.cursors[number]
	}
	if c == nil || c.removed {
		return nil
	}
	return c
}

func (t *txn) touch(number uint64) *cursor {
	c := t.touched[number]
	if c == nil {
		if c = t.cursors[number]; c != nil {
			c = c.clone()
			t.touched[number] = c
		}
	}
	return c
}

// sessionRecord returns the record of a client, nil if there is none that can be read.
func (t *txn) sessionRecord(client string) *sessionRecord {
	rec, err := parseSession(t.bucket(bucketSessions).Get(nameKey(nil, client)))
	if err != nil {
		return nil
	}
	return rec
}

func (t *txn) putSession(s *sessionRecord) error {
	rec, err := s.sealed()
	if err != nil {
		return err
	}
	return t.bucket(bucketSessions).Put(nameKey(nil, s.client), rec)
}

// discard ends an incarnation of a session. Its queue is left to the sweep.
func (t *txn) discard(number uint64) error {
	for _, b := range []int{bucketSubscriptions, bucketReceived} {
		var keys [][]byte
		at := t.bucket(b).Cursor()
		prefix := numberKey(number)
		for key, _ := at.Seek(prefix); bytes.HasPrefix(key, prefix); key, _ = at.Next() {
			keys = append(keys, bytes.Clone(key))
		}
		for _, key := range keys {
			if err := t.bucket(b).Delete(key); err != nil {
				return err
			}
		}
	}
	if c := t.session(number); c != nil {
		dead := c.dead + c.count
		*c = cursor{head: c.next, next: c.next, removed: true, dead: dead, gone: dead == 0}
	}
	return nil
}

// sweep deletes up to budget dead messages, of whichever sessions have some.
func (t *txn) sweep(dead map[uint64]struct{}, budget int) error {
	for _, number := range slices.Sorted(maps.Keys(dead)) {
		if budget <= 0 {
			break
		}
		n, err := t.sweepSession(number, budget)
		if err != nil {
			return err
		}
		budget -= n
	}
	return nil
}

func (t *txn) sweepSession(number uint64, budget int) (int, error) {
	c := t.touch(number)
	if c == nil {
		return 0, nil
	}
	queue := t.bucket(bucketQueue)
	var keys [][]byte
	at := queue.Cursor()
	key, rec := at.Seek(queueKey(number, 0))
	for ; len(keys) < budget && key != nil; key, rec = at.Next() {
		position, ok := queuePosition(key, number)
		if !ok || position >= c.head {
			break
		}
		keys = append(keys, bytes.Clone(key))
		if q, err := parseTarget(rec[min(sealSize, len(rec)):]); err == nil && q.body != 0 {
			t.unreferenced[q.body]++
		}
	}
	for _, key := range keys {
		if err := queue.Delete(key); err != nil {
			return 0, err
		}
	}
	c.dead = max(c.dead-int64(len(keys)), 1)
	if len(keys) < budget {
		c.dead, c.gone = 0, c.removed
	}
	return len(keys), nil
}

// release takes references from bodies and deletes those that have none left.
func (t *txn) release() error {
	bodies, refs := t.bucket(bucketBodies), t.bucket(bucketRefs)
	for _, number := range slices.Sorted(maps.Keys(t.unreferenced)) {
		key := numberKey(number)
		if left, err := parseNumber(refs.Get(key)); err == nil && left > t.unreferenced[number] {
			if err := refs.Put(key, numberRecord(left-t.unreferenced[number])); err != nil {
				return err
			}
			continue
		}
		if err := refs.Delete(key); err != nil {
			return err
		}
		if err := bodies.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

// finish writes the cursors of all sessions that were touched, once each, and deletes the bodies that
// are nobody's any more.
func (t *txn) finish() error {
	if err := t.release(); err != nil {
		return err
	}
	cursors := t.bucket(bucketCursors)
	for _, number := range slices.Sorted(maps.Keys(t.touched)) {
		c := t.touched[number]
		var err error
		if c.gone {
			err = cursors.Delete(numberKey(number))
		} else {
			err = cursors.Put(numberKey(number), c.record())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// settle moves the heads of the queues that have been acknowledged.
func (t *txn) settle() {
	for number, c := range t.touched {
		c.settle(t.bucket(bucketQueue), number)
	}
}
