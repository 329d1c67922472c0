package offline

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	bolt "go.etcd.io/bbolt"

	"gateway/broker/session"
)

// A cursor is the state of one session's queue. An acknowledgement changes the cursor and leaves
// the message where it is; what is behind the head is dead and swept later, many at a time.
type cursor struct {
	head    uint64 // the first message that is not Done, or next
	next    uint64 // the position after the last one
	count   int64  // records from head on
	bytes   int64  // of their PUBLISH packets
	stages  map[uint64]session.Stage
	parts   map[uint32]part // by the number of the rule
	removed bool            // the session is gone and all of its queue is dead

	// scanned tells by rule, or for anyRule, before which position no message may be dropped; not
	// stored.
	scanned map[uint64]uint64

	dead int64 // records behind the head that are still in the file; not stored
	gone bool  // nothing is left, not even the cursor; not stored
}

func newCursor() *cursor {
	return &cursor{head: 1, next: 1, stages: make(map[uint64]session.Stage)}
}

func (c *cursor) clone() *cursor {
	copied := *c
	copied.stages = maps.Clone(c.stages)
	copied.parts, copied.scanned = maps.Clone(c.parts), maps.Clone(c.scanned)
	return &copied
}

// add notes a message that was put at a position. Positions only grow; those in between may be
// missing, because what was submitted with them failed or was dropped.
func (c *cursor) add(position uint64, rule uint32, size int64) {
	if c.head == c.next {
		c.head = position
	}
	c.next = position + 1
	c.weigh(rule, 1, size)
}

// waiting returns how many messages are not Done.
func (c *cursor) waiting() int64 {
	n := c.count
	for _, stage := range c.stages {
		if stage == session.Done {
			n--
		}
	}
	return n
}

// maxWindow is how far behind the head a message may be to have a stage. A packet identifier has
// 16 bits, so that no more than 65,535 positions are ever on their way at once.
const maxWindow = 1 << 16

// advance moves one message to a later stage.
func (c *cursor) advance(position uint64, stage session.Stage) {
	if position >= c.head && position < c.next && position-c.head < maxWindow && stage > c.stages[position] {
		c.stages[position] = stage
	}
}

// settle moves the head to the first record that is not Done.
func (c *cursor) settle(queue *bolt.Bucket, number uint64) {
	if c.stages[c.head] != session.Done {
		return
	}
	c.seek(queue, number)
}

// seek moves the head to the first record from it on that is not Done.
func (c *cursor) seek(queue *bolt.Bucket, number uint64) {
	at := queue.Cursor()
	key, rec := at.Seek(queueKey(number, c.head))
	c.head = c.next
	for ; key != nil; key, rec = at.Next() {
		position, ok := queuePosition(key, number)
		if !ok {
			break
		}
		if c.stages[position] != session.Done {
			c.head = position
			break
		}
		rule, size := weight(rec)
		c.weigh(rule, -1, size)
		c.dead++
	}
	if c.head == c.next {
		c.count, c.bytes = 0, 0
	}
	maps.DeleteFunc(c.stages, func(position uint64, _ session.Stage) bool { return position < c.head })
}

const (
	cursorRemoved = 0x01
	cursorParts   = 0x02
	cursorLost    = 0x04 // the parts tell what was lost, too
)

// The versions of a cursor with parts, and of one whose parts tell what was lost. Those without are as they
// always were.
const (
	cursorPartsVersion = 2
	cursorVersion      = 3
)

// record encodes the cursor. The stages are runs of positions with the same stage: the distance
// from the end of the run before, the length, the stage.
func (c *cursor) record() []byte {
	rec := unsealed(16 + len(c.stages))
	flags := byte(0)
	if c.removed {
		flags |= cursorRemoved
	}
	version, reasons := byte(recordVersion), session.Lost
	if len(c.parts) > 0 {
		flags |= cursorParts
		version = cursorPartsVersion
		if c.lossy() {
			flags |= cursorLost
			version, reasons = cursorVersion, session.Reasons
		}
	}
	rec = append(rec, flags)
	for _, n := range []uint64{c.head, c.next, uint64(c.count), uint64(c.bytes)} {
		rec = binary.AppendUvarint(rec, n)
	}
	if len(c.parts) > 0 {
		rec = c.appendParts(rec, reasons)
	}
	positions := slices.Sorted(maps.Keys(c.stages))
	end := c.head
	for i := 0; i < len(positions); {
		start, stage, n := positions[i], c.stages[positions[i]], 0
		for i < len(positions) && positions[i] == start+uint64(n) && c.stages[positions[i]] == stage {
			i, n = i+1, n+1
		}
		rec = binary.AppendUvarint(rec, start-end)
		rec = append(binary.AppendUvarint(rec, uint64(n)), byte(stage))
		end = start + uint64(n)
	}
	seal(rec)
	rec[0] = version
	return rec
}

func parseCursor(rec []byte) (*cursor, error) {
	b, err := unsealVersion(rec, cursorVersion)
	if err != nil {
		return nil, err
	}
	p := parser{b: b}
	c := newCursor()
	flags := p.byte()
	c.removed = flags&cursorRemoved != 0
	c.head, c.next = p.uvarint(), p.uvarint()
	c.count, c.bytes = int64(p.uvarint()), int64(p.uvarint())
	if flags&cursorParts != 0 {
		reasons := session.Lost
		if flags&cursorLost != 0 {
			reasons = session.Reasons
		}
		if err := c.parseParts(&p, reasons); err != nil {
			return nil, err
		}
	}
	end := c.head
	for len(p.b) > 0 {
		start := end + p.uvarint()
		n, stage := p.uvarint(), session.Stage(p.byte())
		if start < end || start > c.next || n > c.next-start || start+n-c.head > maxWindow {
			return nil, fmt.Errorf("%w: a cursor whose stages end behind its queue", ErrDamaged)
		}
		for i := range n {
			c.stages[start+i] = stage
		}
		end = start + n
	}
	if c.head > c.next {
		return nil, fmt.Errorf("%w: a cursor with head %d behind next %d", ErrDamaged, c.head, c.next)
	}
	return c, p.end()
}
