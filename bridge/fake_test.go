package bridge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"gateway/broker/packet"
)

// A ledger is what the local broker keeps durably of the bridge's session, in memory. What is
// submitted becomes durable later, in order, on a goroutine of its own, like a group commit. A
// crash loses what is not yet durable.
type ledger struct {
	t     *testing.T
	delay time.Duration // of a commit

	mu       sync.Mutex
	queue    []*entry // position-1 is the index
	received map[uint16]bool
	strange  bool             // the cloud may have identifiers of other messages
	inbox    []packet.Publish // published locally by the bridge
	subs     []packet.Subscription
	pending  []operation
	era      int           // counts crashes: operations of an era that has crashed are lost
	current  *fakeSession  // the one open session
	changed  chan struct{} // closed and replaced at each change
	stop     chan struct{}
	stopped  chan struct{}
}

type entry struct {
	p        packet.Publish
	stage    stage // durable
	returned bool  // Next has returned it, or may have before a crash
}

type operation struct {
	era   int
	apply func()
	done  func()
}

func newLedger(t *testing.T, delay time.Duration) *ledger {
	l := &ledger{t: t, delay: delay, received: make(map[uint16]bool),
		changed: make(chan struct{}), stop: make(chan struct{}), stopped: make(chan struct{})}
	go l.commit()
	t.Cleanup(func() { close(l.stop); <-l.stopped })
	return l
}

// announce wakes all who wait. l.mu is held.
func (l *ledger) announce() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// wait waits until ok, which is called with l.mu held.
func (l *ledger) wait(ctx context.Context, ok func() bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !ok() {
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		l.mu.Lock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

func (l *ledger) commit() {
	defer close(l.stopped)
	for {
		l.mu.Lock()
		changed, todo := l.changed, l.pending
		l.mu.Unlock()
		if len(todo) == 0 {
			select {
			case <-changed:
				continue
			case <-l.stop:
				return
			}
		}
		select {
		case <-time.After(l.delay):
		case <-l.stop:
			return
		}
		l.mu.Lock()
		todo, l.pending = l.pending, nil
		var done []func()
		for _, op := range todo {
			if op.era == l.era {
				op.apply()
				done = append(done, op.done)
			}
		}
		l.announce()
		l.mu.Unlock()
		for _, f := range done {
			if f != nil {
				f()
			}
		}
	}
}

// submit adds an operation. l.mu is held.
func (l *ledger) submit(s *fakeSession, apply, done func()) {
	l.pending = append(l.pending, operation{s.era, apply, done})
	l.announce()
}

// crash loses all that is not durable, and makes open sessions worthless.
func (l *ledger) crash() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.era++
	l.pending = nil
	for i, n := 0, 0; i < len(l.queue) && n < 100; i++ {
		if e := l.queue[i]; e.stage != finished {
			e.returned = true
			n++
		}
	}
	l.announce()
}

// add queues messages for the cloud, durably.
func (l *ledger) add(messages ...packet.Publish) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range messages {
		p.ID = uint16(1 + len(l.queue)%65_535)
		l.queue = append(l.queue, &entry{p: p})
	}
	l.announce()
}

// entry returns the entry of an identifier that is not finished. l.mu is held.
func (l *ledger) entry(id uint16) *entry {
	for _, e := range l.queue {
		if e.p.ID == id && e.stage != finished {
			return e
		}
	}
	return nil
}

// open is Config.Open, for a bridge that has one lane.
func (l *ledger) open(ctx context.Context, lane int) (Session, error) {
	if lane != strictLane {
		l.t.Errorf("lane %d was opened", lane)
	}
	l.mu.Lock()
	if l.current != nil && l.current.era == l.era && !l.current.closed {
		l.t.Error("the session was opened twice")
	}
	era := l.era
	l.mu.Unlock()
	if err := l.wait(ctx, func() bool { return len(l.pending) == 0 }); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &fakeSession{ledger: l, era: era, present: l.subs != nil, received: maps.Clone(l.received)}
	l.current = s
	return s, nil
}

// A fakeSession is one opening of the session.
type fakeSession struct {
	*ledger
	era      int
	present  bool
	closed   bool
	at       int             // index of what Next looks at
	received map[uint16]bool // what is or will be durable
}

var errFakeClosed = errors.New("session closed")

// over reports whether the session has been closed or crashed. l.mu is held.
func (s *fakeSession) over() bool { return s.closed || s.era != s.ledger.era }

func (s *fakeSession) SessionPresent() bool { return s.present }

func (s *fakeSession) Subscribe(sub packet.Subscribe) (packet.Suback, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range sub.Filters {
		s.subs = slices.DeleteFunc(s.subs, func(have packet.Subscription) bool { return have.Filter == f.Filter })
		s.subs = append(s.subs, f)
	}
	ack := packet.Suback{Type: packet.SUBACK, ID: sub.ID}
	for _, f := range sub.Filters {
		ack.Reasons = append(ack.Reasons, packet.ReasonCode(f.QoS))
	}
	return ack, nil
}

func (s *fakeSession) Unsubscribe(u packet.Unsubscribe) (packet.Suback, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs = slices.DeleteFunc(s.subs, func(f packet.Subscription) bool { return slices.Contains(u.Filters, f.Filter) })
	return packet.Suback{Type: packet.UNSUBACK, ID: u.ID}, nil
}

func (s *fakeSession) Subscriptions() (filters []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.subs {
		filters = append(filters, f.Filter)
	}
	return filters
}

func (s *fakeSession) Frees(uint16) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.strange
}

func (s *fakeSession) Waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, e := range s.queue {
		if e.stage != finished {
			n++
		}
	}
	return n
}

func (s *fakeSession) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.announce()
	return nil
}

func (s *fakeSession) Next(ctx context.Context) (p packet.Publish, wasAccepted bool, err error) {
	var e *entry
	err = s.wait(ctx, func() bool {
		for ; s.at < len(s.queue) && e == nil; s.at++ {
			if one := s.queue[s.at]; one.stage != finished {
				e = one
			}
		}
		return e != nil || s.over()
	})
	if err != nil {
		return p, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over() {
		return p, false, errFakeClosed
	}
	if e.stage == released {
		return packet.Publish{ID: e.p.ID, QoS: 2}, true, nil
	}
	p = e.p
	p.Dup = e.returned
	e.returned = true
	return p, false, nil
}

func (s *fakeSession) Accepted(id uint16, done func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over() {
		return
	}
	e := s.entry(id)
	if e == nil || e.p.QoS != 2 || e.stage != sent {
		s.t.Errorf("Accepted(%d) of %+v", id, e)
		return
	}
	s.submit(s, func() { e.stage = released }, func() { done(nil) })
}

func (s *fakeSession) Done(id uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over() {
		return
	}
	if e := s.entry(id); e != nil {
		s.submit(s, func() { e.stage = finished }, nil)
	} else {
		s.t.Errorf("Done(%d) of nothing", id)
	}
}

func (s *fakeSession) Publish(p packet.Publish, done func(packet.ReasonCode)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over() {
		return
	}
	finish := func() {}
	if done != nil {
		finish = func() { done(packet.Success) }
	}
	repeated := p.QoS == 2 && s.received[p.ID]
	if p.QoS == 2 {
		s.received[p.ID] = true
	}
	s.submit(s, func() {
		if repeated {
			return
		}
		s.inbox = append(s.inbox, p)
		if p.QoS == 2 {
			s.ledger.received[p.ID] = true
		}
	}, finish)
}

func (s *fakeSession) Release(id uint16, done func(packet.ReasonCode)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over() {
		return
	}
	delete(s.received, id)
	s.submit(s, func() { delete(s.ledger.received, id) }, func() { done(packet.Success) })
}

func (s *fakeSession) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.received)
	s.submit(s, func() { clear(s.ledger.received) }, nil)
}

// durable reports what a crash at this moment would leave of an outgoing message.
func (l *ledger) durable(id uint16) (s stage, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.entry(id); e != nil {
		return e.stage, true
	}
	return finished, false
}

// durablyReceived reports whether a crash at this moment would leave a QoS 2 identifier.
func (l *ledger) durablyReceived(id uint16) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.received[id]
}

// published returns the payloads that reached a local topic.
func (l *ledger) published(topic string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var payloads []string
	for _, p := range l.inbox {
		if p.Topic == topic {
			payloads = append(payloads, string(p.Payload))
		}
	}
	return payloads
}

// message returns a message for a topic with a number as payload.
func message(topic string, q packet.QoS, n int) packet.Publish {
	return packet.Publish{Topic: topic, QoS: q, Payload: fmt.Appendf(nil, "%d", n)}
}
