package offline

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"

	bolt "go.etcd.io/bbolt"

	"gateway/broker/session"
)

// estrange makes a file that was a backup fit for clients that have gone on since. A client has used the
// identifiers of its messages for others: if the store knew them from before, it would take a new
// message for the repetition of an old one. A receiver may still have identifiers of messages that were
// sent since: it would do the same with what is sent next, until PUBREL has come for each.
func estrange(path string) error {
	f, err := openFile(path, maxFile)
	if err != nil {
		return err
	}
	err = f.update(func(tx *bolt.Tx) error {
		if err := tx.DeleteBucket(bucketNames[bucketReceived]); err != nil {
			return err
		}
		if _, err := tx.CreateBucket(bucketNames[bucketReceived]); err != nil {
			return err
		}
		strange := make(map[uint64]uint64)
		err := tx.Bucket(bucketNames[bucketCursors]).ForEach(func(key, rec []byte) error {
			at, err := parseCursor(rec)
			if err == nil && len(key) == 8 && !at.removed { // else another is made up at the start
				strange[keyNumber(key)] = strangeAfter(at.next)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return putStrange(tx, strange)
	})
	return errors.Join(err, f.close())
}

// strangeAfter returns the position from which on each identifier has been used once since next, whatever
// identifiers were used before.
func strangeAfter(next uint64) uint64 { return next + session.Span }

// putStrange writes down for each session, by number, from which position on its receiver has nothing
// strange any more.
func putStrange(tx *bolt.Tx, strange map[uint64]uint64) error {
	rec := unsealed(12 * len(strange))
	for _, number := range slices.Sorted(maps.Keys(strange)) {
		rec = binary.AppendUvarint(binary.AppendUvarint(rec, number), strange[number])
	}
	return tx.Bucket(bucketNames[bucketMeta]).Put(keyStrange, seal(rec))
}

// parseStrange reads what putStrange has written. Without it nothing is strange.
func parseStrange(rec []byte) map[uint64]uint64 {
	strange := make(map[uint64]uint64)
	b, err := unseal(rec)
	if err != nil {
		return strange
	}
	for p := (parser{b: b}); len(p.b) > 0; {
		number, before := p.uvarint(), p.uvarint()
		if p.short {
			break
		}
		strange[number] = before
	}
	return strange
}

// A skipOp raises the next position of a session's queue, when a queue is saved from a damaged
// file: the packet identifiers of what was sent are not used again so soon.
type skipOp struct {
	client string
	number uint64
	next   uint64
}

func (o *skipOp) place(r *register) {
	if e := r.sessions[o.client]; e != nil {
		o.number = e.number
		e.next = max(e.next, o.next)
	}
}

func (o *skipOp) apply(t *txn) error {
	c := t.session(o.number)
	if c == nil || c.next >= o.next {
		return nil
	}
	if c.head == c.next {
		c.head = o.next
	}
	c.next = o.next
	return nil
}
