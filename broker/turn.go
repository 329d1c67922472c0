package broker

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A turnstile makes those who have much to do wait for those who seldom have anything.
//
// Go's scheduler looks whose bytes have come when a processor has nothing else to run, and
// otherwise every 10 ms. While there are as many busy readers as processors, everybody else would
// wait that long, and then behind a time slice of 10 ms of each of them. A reader that has had its
// turn therefore waits for a byte that comes through a pipe, as the bytes of the clients come: when
// the scheduler has seen it, it has seen theirs. Only one reader waits for that byte, and the others
// wait for that reader, first come, first served. So the scheduler looks at the network
// before each turn, and finds the time for that when a turn on some processor is over.
type turnstile struct {
	ask, told *os.File // the ends of the pipe
	in, out   syscall.RawConn
	turns     *atomic.Int64

	// Of the one who waits for the byte.
	look       func(fd uintptr) bool // try, made once
	send       func(fd uintptr)      // say, made once
	sent, lost bool
	byte       []byte

	mu      sync.Mutex
	next    *sync.Cond
	waiting int // for the one who waits for the byte
	asked   bool
}

// turnTime is how long a turn takes. To let others through takes 3 µs.
const turnTime = 100 * time.Microsecond

// flushTime is by how much longer a turn is for each connection that others will have to write to after it.
// Where a message goes to many, several turns would otherwise take the time of writing to them several times.
const flushTime = 1500 * time.Nanosecond

func newTurnstile(turns *atomic.Int64) (*turnstile, error) {
	told, ask, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	t := &turnstile{ask: ask, told: told, turns: turns, byte: make([]byte, 1)}
	t.look, t.send = t.try, t.say
	t.next = sync.NewCond(&t.mu)
	var unread, unwritten error
	t.out, unread = told.SyscallConn()
	t.in, unwritten = ask.SyscallConn()
	if err := errors.Join(unread, unwritten); err != nil {
		return nil, errors.Join(err, t.close())
	}
	return t, nil
}

// pass returns when the scheduler has looked at the network, and those have run whose bytes had come.
// Once the turnstile is closed it returns at once.
func (t *turnstile) pass() {
	t.mu.Lock()
	if t.asked {
		t.waiting++
		t.next.Wait() // the first one who waits is the first one to go on, and t.asked stays
	}
	t.asked = true
	t.mu.Unlock()
	t.sent = false
	_ = t.out.Read(t.look)
	t.turns.Add(1)
	t.mu.Lock()
	if t.waiting > 0 {
		t.waiting--
		t.next.Signal()
	} else {
		t.asked = false
	}
	t.mu.Unlock()
	runtime.Gosched() // behind those who have been found together with the byte
}

// cede lets the kernel run another thread that waits for this processor. The one that has come back from
// the disk with a commit would otherwise wait for the end of a time slice, up to 8 ms on a single core.
func cede() { _, _, _ = syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0) }

// try sends the byte when the pipe's reader begins to wait, so that nobody reads it before it is
// looked for, and reads it after that.
func (t *turnstile) try(fd uintptr) bool {
	if !t.sent {
		t.sent = true
		return t.in.Control(t.send) != nil || t.lost
	}
	_, errno := socketRead(fd, t.byte)
	return errno != syscall.EAGAIN
}

// say sends the byte. There is always room for it.
func (t *turnstile) say(fd uintptr) {
	_, errno := socketWrite(fd, t.byte)
	t.lost = errno != 0
}

// yield ends a turn, and begins another one when it is due.
func (t *turnstile) yield(turn *turn) {
	cede()
	t.pass()
	turn.begin()
}

func (t *turnstile) close() error { return errors.Join(t.ask.Close(), t.told.Close()) }

// A turn is what one connection does between two waits, for its client or for others.
type turn struct {
	since time.Time     // zero before the first look at the clock
	more  time.Duration // that it may take beyond turnTime
	work  int           // since that look
}

// turnLook is how much work, in units of about a PINGREQ, is between two looks at the clock.
const turnLook = 16

// begin begins a turn.
func (t *turn) begin() { *t = turn{} }

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
	return time.Since(t.since) >= turnTime+t.more
}

// extend makes a turn longer for what a round has left to others.
func (t *turn) extend(r *round) {
	t.more += time.Duration(r.left) * flushTime
	r.left = 0
}

// effort returns about how much work a packet was: as much as it is long, and has subscribers.
func effort(body []byte, r *routing) int {
	n := 1 + len(body)/64
	if r != nil {
		n += len(r.hits)
	}
	return n
}

// rest adds work to the turn of the connection, and lets others through if that is over. It is for
// the time between two packets.
func rest(c *conn, work int) {
	if c.r != nil {
		c.turn.extend(&c.r.round)
	}
	if c.turn.over(work) {
		c.srv.turnstile.yield(&c.turn)
	}
}

// restWithin is rest in the middle of a packet, when connections may belong to its round. Who takes the
// session over waits for the end of the packet.
func restWithin(c *conn, work int) {
	if c.r != nil {
		c.turn.extend(&c.r.round)
	}
	if !c.turn.over(work) || !interrupt(&c.link) {
		return
	}
	yield := func() { c.srv.turnstile.yield(&c.turn) }
	if c.r == nil {
		yield()
		return
	}
	c.r.round.pause(yield)
}

// interrupt tells that a packet will take a while, for which others are let through or the store is waited
// for. It reports false when the connection has a cause to end:
// what the packet asks for is then done without a pause, before the client is heard on another connection.
func interrupt(l *link) bool {
	if l.midway.Load() == nil {
		done := make(chan struct{})
		l.midway.Store(&done)
	}
	return l.cause.Load() == nil
}

// finish tells that the packet is done.
func finish(l *link) {
	if done := l.midway.Load(); done != nil {
		l.midway.Store(nil)
		close(*done)
	}
}
