package broker

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// A registry has the sessions of a server by client identifier, and lets them begin and end.
type registry struct {
	srv *Server

	// ordering keeps what the store is told of sessions that begin and end in order. It is held
	// across Submit, which is the reason why it guards nothing else, and comes before all other locks.
	ordering sync.Mutex

	mu       sync.Mutex
	sessions map[string]*Session
	closing  bool
	left     map[string]*Session // let go of, see wait: the store still has them
}

// An arrival is what a client asks for when it connects, over the network or in the process.
type arrival struct {
	peer       peer
	access     *access // nil for a client in the process
	id         string
	cleanStart bool
	expiry     uint32
	window     uint16
	stopgap    bool // the store has refused one that would stay
	will       *packet.Will
	version    packet.Version
}

// attach gives a client its session: the one that it had, or a new one. Whoever uses that client
// identifier now is disconnected [MQTT-3.1.4-3], unless it is another user's. It returns when the session is as durable as it
// can be: a new one that the store refuses is an error, one that is there already is not. The peer
// tells that it has no room until the client knows that it is connected.
func (g *registry) attach(a arrival) (n *Session, present bool, err error) {
	g.mu.Lock()
	old := g.sessions[a.id]
	g.mu.Unlock()
	if old != nil {
		g.vet(old)
	}
	g.ordering.Lock()
	g.mu.Lock()
	old = g.sessions[a.id]
	if g.closing || old == nil && len(g.sessions) >= g.srv.limits.Sessions && !own(a.id) {
		stopping := g.closing
		g.mu.Unlock()
		g.ordering.Unlock()
		if stopping {
			return nil, false, errStopping
		}
		return nil, false, errSessions
	}
	if left := g.left[a.id]; left != nil && a.expiry > 0 { // the store would take the new one for it
		left.mu.Lock()
		l := g.leave(left)
		left.mu.Unlock()
		g.mu.Unlock()
		g.ordering.Unlock()
		if err := l.wait(false); err != nil {
			return nil, false, fmt.Errorf("%w: %w", errUnstored, err)
		}
		return g.attach(a)
	}
	if old != nil && !mayTake(old, a.access) {
		g.mu.Unlock()
		g.ordering.Unlock()
		return nil, false, errTaken
	}
	if old != nil {
		if busy := oust(old); busy != nil {
			g.mu.Unlock()
			g.ordering.Unlock()
			<-busy
			return g.attach(a)
		}
	}
	present = old != nil && !a.cleanStart && outlives(old) && old.leaving == nil && belongsTo(old, a.access)
	if old != nil && !present {
		if l, will, closed := g.dismiss(old); l != nil {
			g.mu.Unlock()
			if will != nil {
				g.srv.publishWill(old.id, will, closed)
			} else {
				g.srv.later(closed)
			}
			g.ordering.Unlock()
			if err := l.wait(a.stopgap); err != nil {
				return nil, false, fmt.Errorf("%w: %w", errUnstored, err)
			}
			return g.attach(a)
		}
	}
	n = old
	hadWill := false
	if !present {
		n = newSession(g.srv, a.id, a.expiry > 0)
		n.stopgap = a.stopgap
		g.sessions[a.id] = n
	}
	var changes []session.Change
	var will *packet.Will
	if old != nil {
		hadWill, changes, will = old.displace(!present)
	}
	n.mu.Lock()
	// What PUBREC has told must be durable before PUBREL is sent again, and that it is not known any more what
	// was sent, before something is.
	lazy := present && n.expiry == a.expiry && a.will == nil && !hadWill && n.storing == 0 && n.state.Queue.Len() == 0
	n.peer, n.expiry, n.will = a.peer, a.expiry, a.will
	adopt(n, a.access)
	n.connected.Store(true)
	n.state.Queue.Resume(a.window)
	n.mu.Unlock()
	g.mu.Unlock()

	opened := &session.Opened{Client: a.id, Expiry: a.expiry, Will: a.will, Version: a.version, Owner: ownerOf(a.access, a.will)}
	if n.durable {
		changes = append(changes, opened)
	}
	committed := make(chan error, 1)
	switch {
	case len(changes) == 0:
		committed <- nil
	case lazy:
		g.srv.later(changes)
		committed <- nil
	default:
		g.srv.store.Submit(changes, false, func(err error) { committed <- err })
	}
	if n.durable && !present {
		n.number = opened.Incarnation // before the first subscription makes the session a target
	}
	g.ordering.Unlock()

	if old != nil && !present {
		g.srv.losses.forget(old.id)
		g.handOn(old)
	}
	if will != nil {
		g.srv.publishWill(a.id, will, nil)
	}
	if err := <-committed; err != nil && !present {
		g.expire(n, a.peer, 0) // it has never begun
		g.detach(n, a.peer, true)
		return nil, false, fmt.Errorf("%w: %w", errUnstored, err)
	} else if err != nil {
		// Local control goes on without the disk: the client knows its session, and what has
		// changed of it, the will and the expiry, ends with this process.
		g.srv.stats.Unstored.Add(1)
	}
	g.srv.stats.Connects.Add(1)
	return n, present, nil
}

// errSessions and errStopping are why a client gets no session.
var (
	errSessions = &packet.Error{Clause: "3.1.4", Reason: packet.QuotaExceeded, Text: "there are as many sessions as limits.sessions allows", Limit: "sessions"}
	errStopping = &packet.Error{Clause: "3.1.4", Reason: packet.ServerUnavailable, Text: "the gateway is stopping"}
)

// errUnstored is why a client gets no new session that would stay.
var errUnstored = errors.New("the session could not be stored")

// oust ends the connection of a session that another one takes over. What it returns is closed when that
// is done with what it is in the middle of; nil: with nothing.
func oust(n *Session) (busy <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.peer == nil {
		return nil
	}
	return n.peer.kick(packet.SessionTakenOver)
}

// outlives reports whether a session goes on after its connection, by the expiry that its client asked for
// last: without one it ends when another connection takes over (5.0, 3.1.2.11.2, and 3.1.4).
func outlives(n *Session) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.expiry > 0
}

// displace makes way for another connection of the same client, after the one that there was has been
// ended, and, when the session ends with that, ends the session. It returns what is to be stored and the
// will that is due.
func (n *Session) displace(end bool) (hadWill bool, changes []session.Change, will *packet.Will) {
	n.mu.Lock()
	defer n.mu.Unlock()
	hadWill = n.will != nil
	connected := n.peer != nil
	if n.will != nil && (end || connected && n.will.Delay == 0) {
		will = n.will
	}
	n.quiet()
	if end {
		changes = n.end()
	}
	return hadWill, changes, will
}

// quiet forgets the connection and what was to happen after it. The lock is held.
func (n *Session) quiet() {
	n.peer, n.backlog, n.behind, n.will = nil, nil, 0, nil
	if n.durable {
		n.state.Queue.Unload()
	}
	n.connected.Store(false)
	if n.timer != nil {
		n.timer.Stop()
		n.timer = nil
	}
}

// end makes the session one that is no longer there. The lock is held.
func (n *Session) end() []session.Change {
	n.ended = true
	if !n.durable {
		return nil
	}
	return []session.Change{&session.Removed{Client: n.id}}
}

// closing returns that the connection of a session has ended, and what was sent by then. The session is
// locked.
func closing(n *Session) *session.Closed {
	return &session.Closed{Client: n.id, At: n.since, Sent: max(session.Sent(&n.state.Queue), 1), Shares: n.shares}
}

// detach tells that a client's connection has ended: with a DISCONNECT that discards its will, or
// otherwise. Nothing happens if the session has another connection already.
func (g *registry) detach(n *Session, p peer, discardWill bool) {
	g.ordering.Lock()
	g.mu.Lock()
	n.mu.Lock()
	if n.peer != p {
		n.mu.Unlock()
		g.mu.Unlock()
		g.ordering.Unlock()
		return
	}
	will := n.will
	if discardWill {
		will = nil
	}
	n.quiet()
	n.will = will
	n.since = time.Now()
	due, changes := g.elapse(n)
	if due == nil && n.will == nil && !n.ended && n.durable {
		changes = append(changes, closing(n))
	}
	ended := n.ended
	n.mu.Unlock()
	g.mu.Unlock()
	g.settle(n, due, changes, ended)
	g.ordering.Unlock()
}

// expire changes the session expiry interval, as a DISCONNECT may (5.0, 3.14.2.2.2).
func (g *registry) expire(n *Session, p peer, seconds uint32) error {
	n.mu.Lock()
	if n.peer != p {
		n.mu.Unlock()
		return nil
	}
	if n.expiry == 0 && seconds > 0 {
		n.mu.Unlock()
		return &packet.Error{Clause: "3.14.2.2.2", Reason: packet.ProtocolError, Text: "a session expiry interval for a session that began without one"}
	}
	n.expiry = seconds
	n.mu.Unlock()
	renew(n)
	return nil
}

// renew stores the settings of a session, of a client that speaks 5.0, as they are now.
func renew(n *Session) {
	if !n.durable {
		return
	}
	n.mu.Lock()
	opened := &session.Opened{Client: n.id, Expiry: n.expiry, Will: n.will, Version: packet.V5, Owner: ownerOf(n.access, n.will)}
	n.mu.Unlock()
	n.srv.later([]session.Change{opened})
}

// elapse does what is due for a session without a connection: it takes its will out, or ends it,
// or sets the timer to when one of them will be due. A server that closes leaves durable sessions
// with their wills to its successor. The table and the session are locked.
func (g *registry) elapse(n *Session) (will *packet.Will, changes []session.Change) {
	if n.leaving != nil {
		return nil, nil
	}
	away := time.Since(n.since)
	left := func(seconds uint32) time.Duration { return time.Duration(seconds)*time.Second - away }
	if g.closing && n.durable && n.expiry > 0 {
		return nil, nil
	}
	if n.will != nil && left(min(n.will.Delay, n.expiry)) <= 0 {
		will, n.will = n.will, nil
		if n.durable {
			changes = append(changes, closing(n))
		}
	}
	switch {
	case n.will != nil:
		n.timer = time.AfterFunc(left(min(n.will.Delay, n.expiry)), func() { g.srv.start(func() { g.due(n) }) })
	case n.expiry == Never:
	case left(n.expiry) > 0:
		n.timer = time.AfterFunc(left(n.expiry), func() { g.srv.start(func() { g.due(n) }) })
	default:
		if n.expiry > 0 {
			g.srv.stats.Outlived.Add(1)
		}
		if n.durable && n.shares {
			g.leave(n)
			break
		}
		changes = append(changes, n.end()...)
		delete(g.sessions, n.id)
	}
	return will, changes
}

// due is elapse, at the time that the timer was set to.
func (g *registry) due(n *Session) {
	g.vet(n)
	g.ordering.Lock()
	defer g.ordering.Unlock()
	g.mu.Lock()
	n.mu.Lock()
	if n.peer != nil || n.ended {
		n.mu.Unlock()
		g.mu.Unlock()
		return
	}
	will, changes := g.elapse(n)
	ended := n.ended
	n.mu.Unlock()
	g.mu.Unlock()
	g.settle(n, will, changes, ended)
}

// settle carries out what elapse decided, without its locks. The will and the record that it is
// no longer due are one unit: a will is published once.
func (g *registry) settle(n *Session, will *packet.Will, changes []session.Change, ended bool) {
	if ended {
		g.srv.losses.forget(n.id)
		g.handOn(n)
	}
	if will != nil {
		g.srv.publishWill(n.id, will, changes)
		return
	}
	g.srv.later(changes)
}

// close stops the time for all sessions and returns the peers that are connected.
func (g *registry) close() (peers []peer) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closing = true
	for _, n := range g.sessions {
		n.mu.Lock()
		if n.peer != nil {
			peers = append(peers, n.peer)
		}
		if n.timer != nil {
			n.timer.Stop()
		}
		n.mu.Unlock()
	}
	return peers
}

// count returns how many sessions there are, how many of them have a connection, and how many
// messages wait for them.
func (g *registry) count() (total, connected, waiting, bytes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, n := range g.sessions {
		n.mu.Lock()
		if n.peer != nil {
			connected++
		}
		waiting += n.state.Queue.Len()
		bytes += n.state.Queue.Bytes()
		n.mu.Unlock()
	}
	return len(g.sessions), connected, waiting, bytes
}
