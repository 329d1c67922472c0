package offline

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Dead messages are swept when so many have gathered that the sweep costs little for each.
const (
	sweepAt    = 256
	sweepMost  = 1024                  // by one commit that has little else to do
	sweepPause = 20 * time.Millisecond // between sweeps while nothing else is committed
)

// A committer makes batches durable, one transaction each. All of it runs on one goroutine; a
// second one, the notifier, calls what waits for a batch while the next is on its way.
type committer struct {
	file     *file
	intake   *intake
	clock    *clock
	maxBytes int64
	sweepAt  int64

	probeAfter   time.Duration
	compactAt    int64
	compactAfter time.Time // no attempt before

	puncher puncher

	cursors map[uint64]*cursor  // of all sessions, as they are in the file
	dead    map[uint64]struct{} // sessions with dead messages
	deadN   int64
	used    int64 // bytes of the file that hold something
	last    int   // units of the last batch
	debt    debt
	trouble

	// committed are batches on their way to the notifier. When it is full, the next commit waits
	// until the callbacks of an earlier one are through.
	committed chan []*unit
	workers   sync.WaitGroup

	way *Way

	gauge
}

func (c *committer) start() {
	c.committed = make(chan []*unit, 2)
	c.workers.Go(c.run)
	c.workers.Go(c.notify)
}

func (c *committer) notify() {
	for batch := range c.committed {
		for i, u := range batch {
			c.way.step(i)
			if u.done != nil {
				//crash:before-done
				u.done(u.err)
			}
		}
	}
}

// run commits what the intake has, until the intake is closed and empty.
func (c *committer) run() {
	defer close(c.committed)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		pause, over := c.intake.due()
		holes := c.puncher.due(c)
		switch {
		case over:
			if !c.debt.none() {
				c.debt.commit(c, nil)
			}
			return
		case pause == 0:
			c.gather(timer)
			batch := c.intake.take()
			//crash:batch-taken
			c.debt.commit(c, batch)
			//crash:batch-committed
			c.last = len(batch)
			c.intake.finished(batch)
			c.hand(batch)
		case c.compactDue():
			c.compact()
		case holes == 0:
			c.puncher.punch(c)
		case pause > 0:
			c.quiet(timer, pause)
		case c.sweepDue() && c.disk == nil:
			if c.quiet(timer, sweepPause) {
				c.debt.commit(c, nil)
			}
		case c.why() != nil || !c.debt.none():
			if c.quiet(timer, c.probeAfter) {
				c.probe()
			}
		case holes > 0:
			c.quiet(timer, holes)
		default:
			<-c.intake.wake
		}
	}
}

// quiet waits until something is submitted, or reports true when nothing was for so long.
func (c *committer) quiet(timer *time.Timer, pause time.Duration) bool {
	timer.Reset(pause)
	select {
	case <-c.intake.wake:
		return false
	case <-timer.C:
		return true
	}
}

// gather lingers when the last batch had several units: those who wait for one another's commits
// come back within a moment, and share the next.
func (c *committer) gather(timer *time.Timer) {
	if c.last < 2 || c.intake.expect(c.last) {
		return
	}
	timer.Reset(linger)
	for {
		select {
		case <-c.intake.wake:
			if c.intake.expect(c.last) {
				return
			}
		case <-timer.C:
			return
		}
	}
}

// hand passes a batch on to the notifier.
func (c *committer) hand(batch []*unit) {
	refused := int64(0)
	for _, u := range batch {
		u.ops = nil
		if u.err != nil {
			refused++
		}
	}
	c.mu.Lock()
	c.stats.Refused += refused
	c.mu.Unlock()
	select {
	case c.committed <- batch:
	default:
		c.intake.overflowing(true)
		c.committed <- batch
		c.intake.overflowing(false)
	}
}

// sweepDue reports whether dead messages are to go: there are many, or room is short.
func (c *committer) sweepDue() bool {
	return c.deadN >= c.sweepAt || c.deadN > 0 && (c.room != nil || c.used > c.maxBytes-c.maxBytes/8)
}

// commit makes units durable and sets the error of those that do not become so. What is the
// fault of one unit costs the others nothing. Without units it only sweeps.
func (c *committer) commit(units []*unit) {
	for {
		live, err := c.try(units)
		var bad *unitError
		switch {
		case err == errNothing: // which says nothing about the disk
			c.health(c.why())
			return
		case err == nil:
			c.disk = nil
			c.health(c.why())
			return
		case errors.As(err, &bad):
			bad.unit.err = fmt.Errorf("store: %w", bad)
			c.log.Warn("the store cannot keep a change", "error", bad.err)
			continue
		case errors.Is(err, ErrFull):
			c.disk, c.room = err, err
			c.health(c.why())
			if fail(live, err, func(u *unit) bool { return u.grows > 0 }) {
				continue
			}
		case !errors.Is(err, ErrDisk) && !errors.Is(err, errUnsound) && len(live) > 1:
			// Nobody knows whose fault it is: the half without it succeeds.
			c.commit(live[:len(live)/2])
			c.commit(live[len(live)/2:])
			return
		default:
			c.disk = err
			c.health(c.why())
		}
		fail(live, err, func(*unit) bool { return true })
		return
	}
}

// fail gives the error to some of the units, and reports whether there were any.
func fail(units []*unit, err error, which func(*unit) bool) (some bool) {
	for _, u := range units {
		if which(u) {
			u.err, some = fmt.Errorf("store: %w", err), true
		}
	}
	return some
}

// errNothing ends a transaction that would change nothing, for which the disk is not asked.
var errNothing = errors.New("nothing to commit")

// try commits in one transaction the units that have not failed and are not refused. It returns
// these, and errNothing when there was nothing to commit.
func (c *committer) try(units []*unit) (live []*unit, err error) {
	sweep := c.sweepDue()
	live = slices.DeleteFunc(slices.Clone(units), func(u *unit) bool { return u.err != nil })
	var t *txn
	var size int64
	var refused map[*unit]error
	err = c.file.update(func(tx *bolt.Tx) error {
		t = c.newTxn(tx)
		ops := 0
		live, size, refused = live[:0], 0, nil
		for number := range c.debt.behind {
			t.touch(number)
		}
		for i, u := range units {
			c.way.step(i)
			if u.err != nil {
				continue
			}
			if err := t.refuses(u); err != nil {
				if refused == nil {
					refused = make(map[*unit]error)
				}
				refused[u] = err
				continue
			}
			live = append(live, u)
			size += u.grows
			n, err := u.apply(t)
			if err != nil {
				return &unitError{u, err}
			}
			ops += n
		}
		if ops == 0 && len(t.touched) == 0 && !sweep {
			return errNothing
		}
		t.settle()
		if sweep {
			if err := t.sweep(c.dead, max(sweepMost, 2*len(units))); err != nil {
				return err
			}
		}
		if err := t.finish(); err != nil {
			return err
		}
		//crash:before-commit
		return c.clock.note(tx, false)
	})
	for u, err := range refused { // whatever becomes of the others
		u.err = fmt.Errorf("store: %w", err)
	}
	if err != nil && err != errNothing {
		return live, reason(err)
	}
	if err == nil {
		c.adopt(t.touched)
		clear(c.debt.behind)
		c.account(t, len(live), size)
		for _, l := range t.lapsed {
			l.holder.Expired(l.messages)
		}
	}
	if t.short {
		c.room = fmt.Errorf("%w: %d of %d bytes are used", ErrFull, c.used, c.maxBytes)
	}
	return live, err
}

// account keeps the books of a commit, whose messages had size bytes.
func (c *committer) account(t *txn, units int, size int64) {
	c.used = c.measure(c.file)
	c.mu.Lock()
	c.stats.Commits++
	c.stats.Messages += t.messages
	c.stats.Bytes += size
	c.stats.LastBatch = units
	c.stats.Dead = c.deadN
	c.mu.Unlock()
	// That something was deleted, or a small message found room where a large one did not, does
	// not yet mean that there is room again.
	if size > 0 && c.used <= c.maxBytes-c.maxBytes/16 {
		c.room = nil
	}
}

// adopt takes over the cursors of a transaction that is on disk.
func (c *committer) adopt(touched map[uint64]*cursor) {
	for number, now := range touched {
		if before := c.cursors[number]; before != nil {
			c.deadN -= before.dead
		}
		c.deadN += now.dead
		c.cursors[number] = now
		if now.gone {
			delete(c.cursors, number)
		}
		if now.dead > 0 {
			c.dead[number] = struct{}{}
		} else {
			delete(c.dead, number)
		}
	}
}
