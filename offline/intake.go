package offline

import (
	"sync"
	"time"
)

// A unit is what one Submit has handed over: it becomes durable as a whole or not at all.
type unit struct {
	ops   []op
	size  int64     // bytes of memory it takes while it waits, about
	live  int       // ops that have to be written
	grows int64     // bytes that it adds to the file, about; 0: it may free some
	at    time.Time // when it came
	lazy  bool      // nobody waits for it
	done  func(error)
	err   error // why it has no effect
}

// apply writes what the unit changes, and returns how many of its changes need a transaction.
func (u *unit) apply(t *txn) (needed int, err error) {
	for _, o := range u.ops {
		if err := o.apply(t); err != nil {
			return needed, err
		}
		if writes(o) {
			needed++
		}
	}
	return needed, nil
}

// writes reports whether an op has to be written, whatever it does to cursors.
func writes(o op) bool {
	switch o := o.(type) {
	case *trimOp:
		return false
	case *advanceOp:
		return !o.void
	case *enqueueOp:
		return !o.void()
	}
	return true
}

// writing returns how many ops of the unit have to be written.
func (u *unit) writing() (n int) {
	for _, o := range u.ops {
		if writes(o) {
			n++
		}
	}
	return n
}

// A batch is what one commit takes. It is bounded so that a commit of a large backlog on a slow
// disk does not keep those who come after it waiting for too long.
const (
	batchUnits = 4096
	batchBytes = 4 << 20
)

// linger is how long the committer waits for as many units as the batch before had.
const linger = time.Millisecond

// An intake is the queue before the committer. It is bounded in bytes: put waits while it is full.
type intake struct {
	window     time.Duration // how long lazy units may wait
	delay      time.Duration // how long the others wait for what makes them void
	maxPending int64

	wake chan struct{} // room for one signal: when it is full the committer will look anyway

	mu       sync.Mutex
	room     sync.Cond
	register register
	units    []*unit
	bytes    int64     // of units and of those taken but not committed
	urgent   int       // units that somebody waits for
	live     int       // units that have something to be written
	oldest   time.Time // when the first of units came
	since    time.Time // when the first of the urgent ones came
	expected int       // units that end the linger
	overflow bool      // the notifier holds up the committer: put must not hold up the notifier
	closed   bool
}

func newIntake(window, delay time.Duration, maxPending int64) *intake {
	in := &intake{
		window: window, delay: delay, maxPending: maxPending,
		wake:     make(chan struct{}, 1),
		register: register{sessions: make(map[string]*entry), early: make(map[place]early)},
	}
	in.room.L = &in.mu
	return in
}

// put appends a unit, and gives it its numbers. It reports false after close.
func (in *intake) put(u *unit, lazy bool) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.bytes > in.maxPending && !in.overflow && !in.closed {
		in.room.Wait()
	}
	if in.closed {
		return false
	}
	in.register.unit = u
	for _, o := range u.ops {
		o.place(&in.register)
	}
	if u.live = u.writing(); u.live > 0 {
		in.live++
	}
	u.at, u.lazy = time.Now(), lazy
	in.void()
	if len(in.units) == 0 {
		in.oldest = u.at
	}
	in.units = append(in.units, u)
	in.bytes += u.size
	if !lazy {
		if in.urgent++; in.urgent == 1 {
			in.since = u.at
		}
	}
	if len(in.units) == 1 || in.urgent == 1 || in.full() || len(in.units) == in.expected {
		in.signal()
	}
	return true
}

// void notes which units have nothing left to be written since the last call. If that is all of them,
// nobody has to wait for them any longer.
func (in *intake) void() {
	for _, u := range in.register.voided {
		if u.live--; u.live == 0 {
			if in.live--; in.live == 0 || len(in.units) > 0 && u == in.units[0] {
				in.signal()
			}
		}
	}
	in.register.voided = in.register.voided[:0]
}

func (in *intake) signal() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// full reports that lazy units have no time left, because memory has not.
func (in *intake) full() bool { return in.bytes >= in.maxPending/2 || len(in.units) >= batchUnits }

// due returns how long the committer may still wait before it takes, negative if there is nothing
// to take, and whether there never will be again.
func (in *intake) due() (pause time.Duration, over bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	switch {
	case len(in.units) == 0:
		return -1, in.closed
	case in.full() || in.closed:
		return 0, false
	case in.urgent > 0 && (in.live == 0 || in.delay > 0 && in.units[0].live == 0):
		return 0, false
	case in.urgent > 0:
		return max(in.delay-time.Since(in.since), 0), false
	}
	return max(in.window-time.Since(in.oldest), 0), false
}

// expect arranges to be woken when n units wait, and reports whether they do already.
func (in *intake) expect(n int) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.expected = n
	return len(in.units) >= n || in.full() || in.closed
}

// take returns the units of the next batch.
func (in *intake) take() []*unit {
	in.mu.Lock()
	defer in.mu.Unlock()
	most := in.ripe(time.Now())
	n, bytes := 0, int64(0)
	for n < most && n < batchUnits && (n == 0 || bytes < batchBytes) {
		bytes += in.units[n].size
		n++
	}
	batch := in.units[:n:n]
	for _, u := range batch {
		in.register.settle(u)
		if u.live > 0 {
			in.live--
		}
		if !u.lazy {
			in.urgent--
		}
	}
	if in.units = in.units[n:]; len(in.units) == 0 {
		in.units = nil
		return batch
	}
	in.oldest = in.units[0].at
	for _, u := range in.units {
		if !u.lazy {
			in.since = u.at
			break
		}
	}
	return batch
}

// ripe returns how many units, from the first, may be taken. With a delay a message that came a moment
// ago waits for the rest of it, or a stream would be written whose messages become void one by one:
// those of the last moment would always be among the others. When one has to be written all are, for a
// commit costs about the same.
func (in *intake) ripe(now time.Time) int {
	if in.delay == 0 || in.urgent == 0 || in.full() || in.closed {
		return len(in.units)
	}
	n := 0
	for n < len(in.units) && now.Sub(in.units[n].at) >= in.delay {
		if u := in.units[n]; u.live > 0 && !u.lazy {
			return len(in.units)
		}
		n++
	}
	for n < len(in.units) && (in.units[n].live == 0 || n > 0 && in.units[n].lazy) {
		n++
	}
	return n
}

// finished gives back the room of a batch that is committed. What its failed units have promised
// is taken back.
func (in *intake) finished(batch []*unit) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, u := range batch {
		in.bytes -= u.size
		if u.err == nil {
			continue
		}
		for _, o := range u.ops {
			if o, ok := o.(*removeOp); ok {
				o.undo(&in.register)
			}
		}
	}
	in.room.Broadcast()
}

// overflowing tells that the committer waits for the notifier, whose callbacks may submit.
func (in *intake) overflowing(on bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.overflow = on
	in.room.Broadcast()
}

// close refuses all units from now on. Those that wait stay.
func (in *intake) close() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return false
	}
	in.closed = true
	in.room.Broadcast()
	in.signal()
	return true
}

// state returns the pending bytes and whether the intake is closed.
func (in *intake) state() (bytes int64, closed bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.bytes, in.closed
}
