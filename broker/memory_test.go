package broker_test

import (
	"errors"
	"slices"
	"sync"

	"gateway/broker/session"
)

// A memory is a store that forgets nothing while it is held, so that a second server can go on
// with it. Its commits wait while it is paused, and fail while it has an error.
type memory struct {
	mu       sync.Mutex
	wake     *sync.Cond
	pending  []pending
	paused   bool
	closed   bool
	busy     bool
	fail     error
	hidden   bool
	crowded  bool
	waiting  bool   // something has waited for room
	strange  uint64 // of all sessions
	number   uint64
	live     map[string]*stored // as submitted
	sessions map[string]*stored // as committed
	retained map[string]*session.Message
	commits  int
	left     int // commits before it fails, below 1: it does not
	reads    int
	running  sync.WaitGroup
}

type pending struct {
	changes []session.Change
	opened  *stored // by one of them
	done    func(error)
}

type stored struct {
	opened   *session.Opened
	closed   *session.Closed
	subs     map[string]*session.Subscribed
	next     uint64 // given out
	queue    []session.Queued
	stages   map[uint64]session.Stage
	received map[uint16]bool
}

func newMemory() *memory {
	m := &memory{live: make(map[string]*stored), sessions: make(map[string]*stored), retained: make(map[string]*session.Message)}
	m.wake = sync.NewCond(&m.mu)
	m.running.Go(m.run)
	return m
}

func (m *memory) close() {
	m.mu.Lock()
	m.closed = true
	m.wake.Broadcast()
	m.mu.Unlock()
	m.running.Wait()
}

func (m *memory) pause(on bool) {
	m.mu.Lock()
	m.paused = on
	m.wake.Broadcast()
	m.mu.Unlock()
}

// queued returns how many messages are kept for a client.
func (m *memory) queued(client string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.sessions[client].queue)
}

func (m *memory) failWith(err error) {
	m.mu.Lock()
	m.fail = err
	m.mu.Unlock()
}

// failAfter makes the store fail after so many commits.
func (m *memory) failAfter(commits int) {
	m.mu.Lock()
	m.left = commits
	m.mu.Unlock()
}

// away reports whether it is known of a client that its connection has ended.
func (m *memory) away(client string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sessions[client].closed != nil
}

// hide makes the store one that is not there.
func (m *memory) hide(on bool) {
	m.mu.Lock()
	m.hidden = on
	m.mu.Unlock()
}

// crowd makes Submit wait with what needs room.
func (m *memory) crowd(on bool) {
	m.mu.Lock()
	m.crowded = on
	m.wake.Broadcast()
	m.mu.Unlock()
}

// hasWaited reports whether something has waited because of crowd.
func (m *memory) hasWaited() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.waiting
}

func (m *memory) Submit(changes []session.Change, _ bool, done func(error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.crowded && slices.ContainsFunc(changes, grows) {
		m.waiting = true
		m.wake.Wait()
	}
	if m.hidden {
		if done != nil {
			go done(errors.New("there is no store"))
		}
		return
	}
	var opened *stored
	for _, c := range changes {
		switch c := c.(type) {
		case *session.Removed:
			delete(m.live, c.Client)
		case *session.Opened:
			s := m.live[c.Client]
			if s == nil {
				m.number++
				s = &stored{subs: make(map[string]*session.Subscribed), next: 1, stages: make(map[uint64]session.Stage), received: make(map[uint16]bool)}
				s.opened = &session.Opened{Client: c.Client, Incarnation: m.number}
				m.live[c.Client] = s
			}
			opened = s
			c.Incarnation = s.opened.Incarnation
		case *session.Enqueued:
			for _, t := range c.To {
				if s := m.live[t.Client]; s != nil && s.opened.Incarnation == t.Incarnation {
					t.Position = s.next
					s.next++
				}
			}
		}
	}
	m.pending = append(m.pending, pending{changes, opened, done})
	m.wake.Broadcast()
}

func (m *memory) run() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		for (len(m.pending) == 0 || m.paused) && !m.closed {
			m.wake.Wait()
		}
		if len(m.pending) == 0 || m.closed {
			return
		}
		p := m.pending[0]
		m.pending = m.pending[1:]
		err := m.fail
		if len(p.changes) == 0 || errors.Is(err, session.ErrFull) && !slices.ContainsFunc(p.changes, grows) {
			err = nil // a barrier, or what needs no room
		}
		if err == nil {
			for _, c := range p.changes {
				m.apply(c, p.opened)
			}
			m.commits++
			if m.left--; m.left == 0 {
				m.fail = errors.New("it fails from now on")
			}
		}
		if p.done != nil {
			m.busy = true
			m.mu.Unlock()
			p.done(err)
			m.mu.Lock()
			m.busy = false
		}
		m.wake.Broadcast()
	}
}

// grows reports whether a change needs room.
func grows(c session.Change) bool {
	switch c.(type) {
	case *session.Enqueued, *session.Retained:
		return true
	}
	return false
}

func (m *memory) apply(c session.Change, opened *stored) {
	switch c := c.(type) {
	case *session.Opened:
		opened.opened, opened.closed = c, nil
		m.sessions[c.Client] = opened
	case *session.Closed:
		if s := m.sessions[c.Client]; s != nil {
			s.closed = c
		}
	case *session.Removed:
		delete(m.sessions, c.Client)
	case *session.Subscribed:
		if s := m.sessions[c.Client]; s != nil {
			s.subs[c.Subscription.Filter] = c
		}
	case *session.Unsubscribed:
		if s := m.sessions[c.Client]; s != nil {
			delete(s.subs, c.Filter)
		}
	case *session.Enqueued:
		for _, t := range c.To {
			if s := m.sessions[t.Client]; s != nil && t.Position > 0 {
				s.queue = append(s.queue, session.Queued{Position: t.Position, QoS: t.QoS, Retain: t.Retain, SubscriptionIDs: t.SubscriptionIDs, Share: t.Share, Message: c.Message})
			}
		}
	case *session.Received:
		if s := m.sessions[c.Client]; s != nil {
			s.received[c.ID] = true
		}
	case *session.Released:
		if s := m.sessions[c.Client]; s != nil {
			delete(s.received, c.ID)
		}
	case *session.Advanced:
		if s := m.sessions[c.Client]; s != nil {
			s.stages[c.Position] = c.Stage
			for len(s.queue) > 0 && s.stages[s.queue[0].Position] == session.Done {
				delete(s.stages, s.queue[0].Position)
				s.queue = s.queue[1:]
			}
		}
	case *session.Retained:
		if name := c.Message.Publish.Topic; len(c.Message.Publish.Payload) == 0 {
			delete(m.retained, name)
		} else {
			m.retained[name] = c.Message
		}
	}
}

func (m *memory) Restore(apply func(session.Change)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.pending) > 0 || m.busy {
		m.wake.Wait()
	}
	for name, s := range m.sessions {
		apply(s.opened)
		for _, sub := range s.subs {
			apply(sub)
		}
		if s.closed != nil {
			apply(s.closed)
		}
		sum := &session.Summary{Client: name, Head: s.next, Next: s.next, Stages: make(map[uint64]session.Stage), Strange: m.strange}
		if len(s.queue) > 0 {
			sum.Head = s.queue[0].Position
		}
		for p, stage := range s.stages {
			sum.Stages[p] = stage
		}
		for id := range s.received {
			sum.Received = append(sum.Received, id)
		}
		apply(sum)
	}
	for _, r := range m.retained {
		apply(&session.Retained{Message: r})
	}
	return nil
}

func (m *memory) Read(client string, from uint64, max int) ([]session.Queued, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	s := m.sessions[client]
	if s == nil {
		return nil, nil
	}
	var found []session.Queued
	for _, q := range s.queue {
		if q.Position >= from && s.stages[q.Position] != session.Done && len(found) < max {
			found = append(found, q)
		}
	}
	return slices.Clip(found), nil
}
