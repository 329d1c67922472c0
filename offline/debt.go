package offline

import (
	"errors"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// A debt is what units have changed that nobody waits for, and the disk has not taken yet. It comes before
// everything else in the next commit, and holds no messages. How far queues have come is in the
// cursors, which are ahead of the file; of other facts about one thing only the last is kept. So it
// stays small, however long the disk fails.
type debt struct {
	units  []*unit             // in the order of submission
	behind map[uint64]struct{} // sessions whose cursors in the file are behind
}

// none reports whether the file has all that it is to have.
func (d *debt) none() bool { return len(d.units) == 0 && len(d.behind) == 0 }

// commit makes units durable, and before them what is owed. What they leave of it is owed from then on.
func (d *debt) commit(c *committer, units []*unit) {
	owed := d.units
	if d.units = nil; owed == nil {
		c.commit(units)
	} else {
		c.commit(slices.Concat(owed, units))
	}
	for i, u := range owed {
		if keeps(u) && !overtaken(c, u.ops[0], slices.Concat(owed[i+1:], units)) {
			u.err = nil
			d.units = append(d.units, u)
		}
	}
	var advances []*advanceOp
	for i, u := range units {
		if !keeps(u) {
			continue
		}
		for _, o := range u.ops {
			if a, ok := o.(*advanceOp); ok {
				advances = append(advances, a)
			} else if !overtaken(c, o, units[i+1:]) {
				d.add(c, o)
			}
		}
		u.err = nil // it does not fail: it takes longer
	}
	if advances != nil {
		d.advance(c, advances)
	}
}

// keeps reports whether a unit that has failed is to be tried again: nobody will do it who waits for it,
// it needs no room, and it is not its own fault.
func keeps(u *unit) bool {
	var own *unitError
	return u.err != nil && u.done == nil && u.grows == 0 && len(u.ops) > 0 && !errors.As(u.err, &own)
}

// overtaken reports whether one of the units that came after an op is committed, and leaves nothing of it.
func overtaken(c *committer, o op, later []*unit) bool {
	return slices.ContainsFunc(later, func(u *unit) bool {
		return u.err == nil && slices.ContainsFunc(u.ops, func(l op) bool { return replaces(c.cursors, l, o) })
	})
}

// add owes one fact more.
func (d *debt) add(c *committer, o op) {
	d.units = slices.DeleteFunc(d.units, func(u *unit) bool { return replaces(c.cursors, o, u.ops[0]) })
	if r, ok := o.(*removeOp); ok && (r.entry == nil || c.cursors[r.entry.number] == nil) {
		return // the file has never had the session
	}
	d.units = append(d.units, &unit{ops: []op{o}})
}

// advance moves cursors ahead of the file.
func (d *debt) advance(c *committer, advances []*advanceOp) {
	t := c.newTxn(nil)
	for _, o := range advances {
		_ = o.apply(t) // it only changes the cursor
	}
	// If the file cannot even be read, the heads follow with the next commit.
	_ = c.file.view(func(tx *bolt.Tx) error {
		t.tx = tx
		t.settle()
		return nil
	})
	for number := range t.touched {
		d.behind[number] = struct{}{}
	}
	c.adopt(t.touched)
}

// replaces reports whether a later op leaves nothing of an earlier one, in a file with these cursors.
func replaces(cursors map[uint64]*cursor, later, earlier op) bool {
	switch l := later.(type) {
	case *openOp:
		switch e := earlier.(type) {
		case *openOp: // unless it begins the session that others in between are about
			return e.record.number == l.record.number && cursors[l.record.number] != nil
		case *closeOp:
			return e.number == l.record.number
		}
	case *closeOp:
		e, ok := earlier.(*closeOp)
		return ok && e.number == l.number
	case *removeOp:
		switch e := earlier.(type) {
		case *openOp:
			return l.entry != nil && e.record.number == l.entry.number
		case *closeOp:
			return l.entry != nil && e.number == l.entry.number
		case *keyOp:
			return l.entry != nil && e.number == l.entry.number
		}
	case *keyOp:
		e, ok := earlier.(*keyOp)
		return ok && e.number == l.number && e.bucket == l.bucket && e.name == l.name && e.id == l.id
	case *retainOp:
		e, ok := earlier.(*retainOp)
		return ok && e.topic == l.topic
	}
	return false
}
