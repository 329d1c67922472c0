package offline

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"gateway/broker/session"
)

// A part is what a cursor knows of the messages that came by one rule; number 0 is for those that
// came by none.
type part struct {
	filter  string // of the rule
	count   int64  // records from the head on, for a rule only
	bytes   int64  // of their PUBLISH packets
	dropped [session.Reasons]tally
}

// A tally counts dropped messages since the session began.
type tally struct {
	count, bytes int64
	first, last  uint64 // positions
	since, until stamp  // when the first and the last were dropped
}

// note counts one more.
func (t *tally) note(position uint64, size int64, now stamp) {
	if t.count == 0 {
		t.first, t.last, t.since = position, position, now
	}
	t.count++
	t.bytes += size
	t.first, t.last, t.until = min(t.first, position), max(t.last, position), now
}

// fact returns the change that tells of the tally.
func (t *tally) fact(client string, number uint32, filter string, reason session.Reason, when calendar) session.Dropped {
	at := func(s stamp) time.Time {
		m := when(s)
		return m.at.Add(-m.waited)
	}
	return session.Dropped{
		Client: client, Rule: number, Filter: filter, Reason: reason, Messages: t.count, Bytes: t.bytes,
		First: t.first, Last: t.last, Since: at(t.since), Until: at(t.until),
	}
}

// drops returns what a cursor's session has dropped, in the order of the rules.
func (c *cursor) drops(client string, when calendar) (facts []session.Dropped) {
	for _, number := range slices.Sorted(maps.Keys(c.parts)) {
		p := c.parts[number]
		for reason := range p.dropped {
			if t := &p.dropped[reason]; t.count > 0 {
				facts = append(facts, t.fact(client, number, p.filter, session.Reason(reason), when))
			}
		}
	}
	return facts
}

// part returns the part of a rule, to be changed and put back.
func (c *cursor) part(number uint32) part { return c.parts[number] }

func (c *cursor) setPart(number uint32, p part) {
	if c.parts == nil {
		c.parts = make(map[uint32]part)
	}
	c.parts[number] = p
}

// weigh counts a record that is added to the queue, or with a negative sign taken from it.
func (c *cursor) weigh(number uint32, sign, size int64) {
	c.count += sign
	c.bytes += sign * size
	if number != 0 {
		p := c.part(number)
		p.count = max(p.count+sign, 0)
		p.bytes = max(p.bytes+sign*size, 0)
		c.setPart(number, p)
		if p.count == 0 && p.dropped == [session.Reasons]tally{} {
			delete(c.parts, number)
		}
	}
}

// lossy reports whether messages were lost.
func (c *cursor) lossy() bool {
	for _, p := range c.parts {
		if p.dropped[session.Lost].count > 0 {
			return true
		}
	}
	return false
}

// appendParts encodes the parts that have something to tell.
func (c *cursor) appendParts(rec []byte, reasons session.Reason) []byte {
	rec = binary.AppendUvarint(rec, uint64(len(c.parts)))
	for _, number := range slices.Sorted(maps.Keys(c.parts)) {
		p := c.parts[number]
		rec = appendText(binary.AppendUvarint(rec, uint64(number)), p.filter)
		rec = binary.AppendUvarint(binary.AppendUvarint(rec, uint64(p.count)), uint64(p.bytes))
		for i := range reasons {
			t := &p.dropped[i]
			rec = binary.AppendUvarint(rec, uint64(t.count))
			if t.count == 0 {
				continue
			}
			for _, n := range []uint64{uint64(t.bytes), t.first, t.last} {
				rec = binary.AppendUvarint(rec, n)
			}
			rec = t.until.append(t.since.append(rec))
		}
	}
	return rec
}

func (c *cursor) parseParts(p *parser, reasons session.Reason) error {
	for n := p.uvarint(); n > 0 && !p.short; n-- {
		number := p.uvarint()
		if number > 1<<32-1 {
			return fmt.Errorf("%w: a cursor with rule %d", ErrDamaged, number)
		}
		one := part{filter: p.text(), count: int64(p.uvarint()), bytes: int64(p.uvarint())}
		for i := range reasons {
			t := &one.dropped[i]
			if t.count = int64(p.uvarint()); t.count == 0 {
				continue
			}
			t.bytes, t.first, t.last = int64(p.uvarint()), p.uvarint(), p.uvarint()
			t.since, t.until = parseStamp(p), parseStamp(p)
		}
		c.setPart(uint32(number), one)
	}
	return p.end()
}
