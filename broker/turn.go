package broker

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A turnstile makes connections that always have more to be read wait for those that seldom have.
//
// Go's scheduler looks whose bytes have come when a processor has nothing else to run, and
// otherwise every 10 ms. While there are as many busy readers as processors, everybody else would
// wait that long, and then behind a time slice of 10 ms of each of them. A reader that has had its
// turn therefore waits at the turnstile for a byte that comes through a pipe, as the bytes of the
// clients come: when the scheduler has seen it, it has seen theirs. Where others than readers keep
// the processors busy, that may take long, and a timer ends the round.
type turnstile struct {
	ask, told *os.File // the ends of the pipe
	late      *time.Timer
	rounds    *atomic.Int64

	mu      sync.Mutex
	moved   *sync.Cond
	round   uint64
	waiting int           // for the next round
	asked   bool          // there is a byte in the pipe
	time    time.Duration // of one turn
	ended   bool
}

// What the turns of one round take together, of however many connections, and the bounds of one
// turn. A round costs about 10 µs itself.
const (
	roundTime = 500 * time.Microsecond
	leastTurn = 20 * time.Microsecond
	mostTurn  = 2 * roundTime
	lateTime  = 2 * roundTime // for the byte to come
)

func newTurnstile(rounds *atomic.Int64) (*turnstile, error) {
	told, ask, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	t := &turnstile{ask: ask, told: told, rounds: rounds, time: mostTurn}
	t.moved = sync.NewCond(&t.mu)
	t.late = time.AfterFunc(time.Hour, func() { t.move(false) })
	t.late.Stop()
	return t, nil
}

// run lets those through who wait, until the turnstile is closed.
func (t *turnstile) run() {
	defer t.late.Stop()
	for b := make([]byte, 1); ; {
		if _, err := t.told.Read(b); err != nil {
			t.mu.Lock()
			t.ended = true
			t.moved.Broadcast()
			t.mu.Unlock()
			return
		}
		t.move(true)
	}
}

// move begins the next round: the byte has come, or is late.
func (t *turnstile) move(come bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if come {
		t.asked = false
		t.late.Stop()
	}
	if t.waiting == 0 {
		return
	}
	t.time = min(max(roundTime*time.Duration(runtime.GOMAXPROCS(0))/time.Duration(t.waiting), leastTurn), mostTurn)
	t.round++
	t.rounds.Add(1)
	t.waiting = 0
	t.moved.Broadcast()
}

// pass returns when the scheduler has looked at the network, with the time of the next turn.
func (t *turnstile) pass() time.Duration {
	t.mu.Lock()
	round := t.round
	t.waiting++
	if t.waiting == 1 {
		t.late.Reset(lateTime)
	}
	ask := !t.asked
	t.asked = true
	t.mu.Unlock()
	if ask {
		_, _ = t.ask.Write([]byte{0}) // there is always room for one; once it is closed, run ends
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.round == round && !t.ended {
		t.moved.Wait()
	}
	return t.time
}

// rest adds work to a turn, and lets the others through if it has taken its time.
func (t *turnstile) rest(turn *turn, work int) {
	if turn.over(work) {
		turn.begin(t.pass())
	}
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

// effort returns about how much work a packet was: as much as it is long, and has subscribers.
func effort(body []byte, r *routing) int {
	n := 1 + len(body)/64
	if r != nil {
		n += len(r.hits)
	}
	return n
}
