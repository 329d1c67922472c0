package broker

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"time"
)

// A turnstile makes connections that always have more to be read wait for those that seldom have.
//
// Go's scheduler looks whose bytes have come when a processor has nothing else to run, and
// otherwise every 10 ms. While there are as many busy readers as processors, everybody else would
// wait that long, and then behind a time slice of 10 ms of each of them. A reader that has had its
// turn therefore waits at the turnstile for a byte that comes through a pipe, as the bytes of the
// clients come: when the scheduler has seen it, it has seen theirs.
type turnstile struct {
	ask, told *os.File // the ends of the pipe

	mu      sync.Mutex
	moved   *sync.Cond
	round   uint64
	waiting int           // for the next round
	time    time.Duration // of one turn
	ended   bool
}

// What one round of turns may take, of however many connections, and the bounds of one turn. A
// round costs about 10 µs itself.
const (
	roundTime = 250 * time.Microsecond
	leastTurn = 20 * time.Microsecond
	mostTurn  = 4 * roundTime
)

func newTurnstile() (*turnstile, error) {
	told, ask, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	t := &turnstile{ask: ask, told: told, time: mostTurn}
	t.moved = sync.NewCond(&t.mu)
	return t, nil
}

// run lets those through who wait, until the turnstile is closed.
func (t *turnstile) run() {
	for b := make([]byte, 1); ; {
		_, err := t.told.Read(b)
		t.mu.Lock()
		t.time = min(max(roundTime*time.Duration(runtime.GOMAXPROCS(0))/time.Duration(max(t.waiting, 1)), leastTurn), mostTurn)
		t.round++
		t.waiting, t.ended = 0, err != nil
		t.moved.Broadcast()
		t.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// pass returns when the scheduler has looked at the network, with the time of the next turn.
func (t *turnstile) pass() time.Duration {
	t.mu.Lock()
	round := t.round
	t.waiting++
	first := t.waiting == 1
	t.mu.Unlock()
	if first {
		_, _ = t.ask.Write([]byte{0}) // there is always room for one; once it is closed, run has ended
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.round == round && !t.ended {
		t.moved.Wait()
	}
	return t.time
}

func (t *turnstile) close() error { return errors.Join(t.ask.Close(), t.told.Close()) }

// A turn is what one connection does between two waits, for its client or for others.
type turn struct {
	time  time.Duration // how long it may take
	since time.Time     // zero before the first look at the clock
	work  int           // since that look
}

// turnLook is how much work, in units of about a PINGREQ, is between two looks at the clock.
const turnLook = 16

// begin begins a turn.
func (t *turn) begin(most time.Duration) { *t = turn{time: most} }

// over adds work, and reports whether the turn has taken its time.
func (t *turn) over(work int) bool {
	if t.work += work; t.work < turnLook {
		return false
	}
	t.work = 0
	if t.since.IsZero() {
		t.since = time.Now()
		return false
	}
	return time.Since(t.since) >= t.time
}
