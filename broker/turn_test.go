package broker_test

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/packet"
)

// An endless connection is one whose client has always more to say: CONNECT, then PINGREQ for
// ever. It takes every answer.
type endless struct {
	net.Conn
	hello  []byte
	asked  atomic.Int64 // bytes of PINGREQ
	closed chan struct{}
	once   sync.Once
}

func (e *endless) Read(b []byte) (int, error) {
	select {
	case <-e.closed:
		return 0, net.ErrClosed
	default:
	}
	if n := copy(b, e.hello); n > 0 {
		e.hello = e.hello[n:]
		return n, nil
	}
	n := len(b) &^ 1
	for i := 0; i < n; i += 2 {
		b[i], b[i+1] = 0xC0, 0
	}
	e.asked.Add(int64(n))
	return n, nil
}

func (e *endless) Write(b []byte) (int, error)      { return len(b), nil }
func (e *endless) Close() error                     { e.once.Do(func() { close(e.closed) }); return nil }
func (e *endless) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (e *endless) SetDeadline(time.Time) error      { return nil }
func (e *endless) SetReadDeadline(time.Time) error  { return nil }
func (e *endless) SetWriteDeadline(time.Time) error { return nil }

// Clients that never pause do not keep the broker from hearing the others: a question and its
// answer take a few rounds of turns at most, however fast the machine is.
func TestTurns(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	s := start(t, nil, broker.Limits{RequestRate: 1e6})
	ln := &pipes{conns: make(chan net.Conn, 4), end: make(chan struct{})}
	var busy []*endless
	for i := range cap(ln.conns) {
		c := clean(string(rune('a' + i)))
		c.Version = packet.V5
		e := &endless{hello: c.Append(nil, packet.V5), closed: make(chan struct{})}
		busy = append(busy, e)
		ln.conns <- e
	}
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(ln, broker.Listener{Name: "busy", Auth: auth.Anonymous{}}) }()
	defer func() {
		_ = ln.Close()
		for _, e := range busy {
			_ = e.Close()
		}
		<-served
	}()
	good := s.connect(packet.V5, clean("good"))
	for _, e := range busy {
		for deadline := time.Now().Add(5 * time.Second); e.asked.Load() == 0; {
			if time.Now().After(deadline) {
				t.Fatal("a busy client is not let in")
			}
			time.Sleep(time.Millisecond)
		}
	}
	const questions, most = 100, 5 // rounds for each
	before := s.server.Stats().Turns.Load()
	for range questions {
		good.send(&packet.Ping{Type: packet.PINGREQ})
		good.expect("PINGRESP")
	}
	rounds := s.server.Stats().Turns.Load() - before
	t.Logf("%d rounds of turns for %d questions", rounds, questions)
	if rounds == 0 || rounds > questions*most {
		t.Errorf("%d questions took %d rounds of turns, want 1 to %d", questions, rounds, questions*most)
	}
}

// Work that is as long as a packet allows is done in several turns.
func TestLongWork(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	w := s.connect(packet.V5, clean("c"))
	await := func(packet string) {
		t.Helper()
		if got := w.read(); !strings.HasPrefix(got, packet) {
			t.Fatalf("%s, want %s", got, packet)
		}
	}
	turns := func(what string, least int64, work func()) {
		t.Helper()
		before := s.server.Stats().Turns.Load()
		work()
		// A turn of 100 µs is not enough for so many on the fastest machine.
		if n := s.server.Stats().Turns.Load() - before; n < least {
			t.Errorf("%s in %d turns, want %d at least", what, n, least)
		}
	}
	const many = 1000 // in one packet
	var filters packet.Subscribe
	var ends packet.Unsubscribe
	for i := range many {
		filter := fmt.Sprint("f/+/", i)
		filters.Filters = append(filters.Filters, packet.Subscription{Filter: filter})
		ends.Filters = append(ends.Filters, filter)
	}
	filters.ID, ends.ID = 1, 2
	turns("1000 filters", 1, func() { w.send(&filters); await("SUBACK") })
	turns("their end", 1, func() { w.send(&ends); await("UNSUBACK") })
	const more = 10 * many // which are 0.1 µs each, or more
	for i := range more {
		p := publish(fmt.Sprint("r/", i), "x", 0, 0)
		p.Retain = true
		w.send(p)
	}
	w.send(&packet.Ping{Type: packet.PINGREQ})
	w.expect("PINGRESP")
	turns("10,000 retained messages", 1, func() {
		w.send(&packet.Subscribe{ID: 3, Filters: []packet.Subscription{{Filter: "r/#"}}})
		await("SUBACK")
		for range more {
			await("PUBLISH")
		}
	})
}
