package broker

import (
	"errors"
	"time"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// A leaving is the end of a durable session in whose queue there may be messages of shared subscriptions.
// Most of them are in the store only. They are read from there and handed on to other members, each in
// one submission with the note that the session is done with it, so that a crash neither loses nor
// doubles one; the session is there until none is left. It is a member of no group meanwhile, and
// its client is kept waiting.
type leaving struct {
	g *registry
	n *Session

	dropped int64         // messages that nobody gets
	repeats bool          // an attempt before has failed
	over    chan struct{} // closed when all is done, or cannot be done now
	err     error         // why it cannot be; the session's lock guards it until over is closed
}

// leaveAgain is how long a session stays that could not be ended, before that is tried again.
const leaveAgain = time.Minute

// dismiss ends the session of a client that asks for another one, if that takes time, and returns what is
// to be told of it: the will that is due, and that its connection has ended. l is nil if it takes none. The
// table is locked.
func (g *registry) dismiss(n *Session) (l *leaving, will *packet.Will, closed []session.Change) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.durable || !n.shares && n.leaving == nil {
		return nil, nil, nil
	}
	will = n.will
	if n.peer != nil {
		n.since = time.Now()
	}
	n.quiet()
	if n.leaving == nil {
		closed = []session.Change{closing(n)}
	}
	return g.leave(n), will, closed
}

// leave begins to end a session, if that has not begun. The table and the session are locked.
func (g *registry) leave(n *Session) *leaving {
	if l := n.leaving; l != nil && l.err == nil {
		return l
	}
	l := &leaving{g: g, n: n, repeats: n.leaving != nil, over: make(chan struct{})}
	if n.leaving = l; !g.srv.start(l.run) {
		l.err = errStopping
		close(l.over)
	}
	return l
}

// wait waits until the session has ended. If it cannot, it is let go of when the client makes do with one
// that does not stay, and comes back with the next start of the gateway.
func (l *leaving) wait(stopgap bool) error {
	<-l.over
	if l.err == nil || !stopgap {
		return l.err
	}
	l.g.mu.Lock()
	l.n.mu.Lock()
	last := l.n.leaving
	if last == l {
		l.end()
		if l.g.left == nil {
			l.g.left = make(map[string]*Session)
		}
		l.g.left[l.n.id] = l.n
	}
	l.n.mu.Unlock()
	l.g.mu.Unlock()
	if last != l { // somebody else has asked for another attempt
		return last.wait(stopgap)
	}
	return nil
}

// end takes the session out of the table. Both are locked.
func (l *leaving) end() {
	l.n.quiet()
	l.n.ended = true
	if l.g.sessions[l.n.id] == l.n {
		delete(l.g.sessions, l.n.id)
	}
}

func (l *leaving) run() {
	defer close(l.over)
	l.g.srv.routes.unroute(l.n)
	l.n.coming.Wait()
	err := l.submit(nil, nil)
	var from uint64
	if err == nil {
		from, err = l.handOn()
	}
	if err == nil {
		l.finish(from)
		return
	}
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	l.err = err
	if l.g.srv.ctx.Err() != nil { // the next server goes on
		return
	}
	l.n.timer = time.AfterFunc(leaveAgain, func() { l.g.srv.start(l.again) })
	if !l.repeats {
		l.g.srv.log.Error("cannot hand on the messages of a session that is to end: it is tried again and again",
			"client", l.n.id, "error", err, "again_in", leaveAgain)
	}
}

// again tries once more.
func (l *leaving) again() {
	l.g.mu.Lock()
	defer l.g.mu.Unlock()
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	if !l.n.ended {
		l.g.leave(l.n)
	}
}

// finish removes the session. What has come since its queue was read up to a position was not for a group.
func (l *leaving) finish(from uint64) {
	l.g.ordering.Lock()
	defer l.g.ordering.Unlock()
	l.g.mu.Lock()
	l.n.mu.Lock()
	_, next, _ := l.n.state.Queue.Missing()
	l.dropped += int64(max(next, from) - from)
	l.end()
	delete(l.g.left, l.n.id)
	l.n.mu.Unlock()
	l.g.mu.Unlock()
	l.g.srv.stats.Dropped.Add(l.dropped)
	l.g.srv.losses.forget(l.n.id)
	l.g.srv.later([]session.Change{&session.Removed{Client: l.n.id}})
}

// handOn hands on all that is in the store, and returns up to where that was.
func (l *leaving) handOn() (from uint64, err error) {
	l.n.mu.Lock()
	_, from, _ = l.n.state.Queue.Missing()
	l.n.mu.Unlock()
	for at := uint64(0); ; {
		found, err := l.g.srv.store.Read(l.n.id, at, readAhead)
		if err != nil || len(found) == 0 {
			return max(from, at), err
		}
		if err := l.hand(found); err != nil {
			return 0, err
		}
		if l.g.srv.ctx.Err() != nil {
			return 0, errStopping
		}
		at = found[len(found)-1].Position + 1
	}
}

// hand hands on messages as one unit, or if that is not possible each by itself. One for which there
// is no room is dropped.
func (l *leaving) hand(found []session.Queued) error {
	err := l.try(found)
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, session.ErrFull):
		return err
	case len(found) == 1:
		l.dropped++
		return nil
	}
	for i := range found {
		if err := l.hand(found[i : i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (l *leaving) try(found []session.Queued) error {
	l.n.mu.Lock()
	some, open := l.n.state.Queue.Transferable(found)
	l.n.mu.Unlock()
	srv := l.g.srv
	var changes []session.Change
	var units []unit
	var routings []*routing
	for _, q := range some {
		r := srv.routes.another(q.Share, q.Message)
		if r == nil {
			continue
		}
		u := unit{srv: srv}
		if h := &r.hits[0]; h.s.durable && h.qos > 0 {
			u.enqueue(r, h)
			changes = append(changes, u.enqueued)
		}
		changes = append(changes, &session.Advanced{Client: l.n.id, Position: q.Position, Stage: session.Done})
		units, routings = append(units, u), append(routings, r)
	}
	if len(changes) > 0 {
		err := l.submit(changes, func(err error) {
			for i := range units {
				switch u := &units[i]; {
				case u.enqueued != nil:
					u.deliverStored(err)
				case err == nil: // to a member that lives in memory
					u.deliver(routings[i], &routings[i].hits[0])
				}
			}
		}, routings...)
		if err != nil {
			return err
		}
	}
	l.dropped += int64(open - len(units))
	return nil
}

// submit submits changes, settles the routings, and waits until the changes are durable.
func (l *leaving) submit(changes []session.Change, done func(error), routings ...*routing) error {
	durable := make(chan error, 1)
	l.g.srv.store.Submit(changes, false, func(err error) {
		if done != nil {
			done(err)
		}
		durable <- err
	})
	for _, r := range routings {
		r.settle()
	}
	return <-durable
}
