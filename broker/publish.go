package broker

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// publish takes a message from a session, or from the gateway itself, and passes it on. done is
// called once, when the acknowledgement may leave: PUBACK or PUBREC with its reason code. It is
// nil when nobody waits, as at QoS 0, and then the store may take its time.
//
// Everything that must be durable goes to the store as one unit: the message for durable
// sessions, the retained message, and the identifier of a QoS 2 PUBLISH. A message for sessions
// that live in memory only needs no store, so local control goes on when the disk does not.
func (s *Server) publish(r *routing, done func(packet.ReasonCode)) {
	if r.p.QoS == 2 && r.from != nil {
		switch fresh, ok := r.receive(); {
		case !ok:
			done(packet.UnspecifiedError)
			return
		case !fresh:
			r.repeat(s.store, done)
			return
		}
	}
	u := unit{srv: s, done: done, changes: r.with}
	if r.p.QoS == 2 && r.from != nil {
		u.from, u.id = r.from, r.p.ID
		//crash:identifier-taken
	}
	if !r.p.Retain {
		u.route(r)
		stored := u.submit(&r.round)
		r.settle()
		if !stored {
			u.acknowledge()
		}
		return
	}
	s.retaining.Lock()
	err := u.retain(r)
	if err == nil || r.p.QoS == 0 {
		u.route(r)
	}
	stored := err == nil && u.submit(&r.round)
	r.settle()
	s.retaining.Unlock()
	switch {
	case err != nil:
		if s.memory.scarce.Load() {
			s.stats.Limits.add("memory")
		} else {
			s.stats.Limits.add("retained_size")
		}
		if untold, due := s.unretained.due(); due {
			s.log.Warn("retained messages are refused", "topic", r.p.Topic, "limit", s.limits.RetainedBytes, "others_before", untold,
				"remedy", "find out who retains so much, or raise limits.retained_size")
		}
		u.committed(err)
	case !stored:
		u.acknowledge()
	}
}

// someHits is how many sessions get a message before other clients may be let through. Two messages
// of different publishers may then come in different orders to different sessions.
const someHits = 16

// route passes a message on to its subscribers, and adds to the unit what of it must be durable.
func (u *unit) route(r *routing) {
	u.srv.routes.match(r)
	if len(r.hits) == 0 {
		u.reason = packet.NoMatchingSubscribers
	}
	for i := range r.hits {
		if i%someHits == someHits-1 && r.rest != nil && !r.p.Retain { // which would hold a lock
			r.rest(someHits)
		}
		u.deliver(r, &r.hits[i])
	}
	if u.enqueued != nil {
		u.changes = append(u.changes, u.enqueued)
	}
	if u.from != nil && u.from.durable {
		u.changes = append(u.changes, &session.Received{Client: u.from.id, ID: u.id})
	}
}

// receive takes the identifier of a QoS 2 PUBLISH and reports whether it is new. ok is false when
// the session has another connection now: what comes late by the one of before must not be taken
// for something new.
func (r *routing) receive() (fresh, ok bool) {
	r.from.mu.Lock()
	defer r.from.mu.Unlock()
	if r.from.peer != r.peer {
		return false, false
	}
	return r.from.state.Inbox.Receive(r.p.ID), true
}

// repeat acknowledges the repetition of a QoS 2 PUBLISH that was taken before, which starts no other
// delivery [MQTT-4.3.3-10]. The first may still be on its way to the disk, and fail there.
func (r *routing) repeat(store Store, done func(packet.ReasonCode)) {
	from, id := r.from, r.p.ID
	r.round.end() // the store may have to wait
	store.Submit(nil, false, func(err error) {
		reason := reasonOf(err)
		from.mu.Lock()
		if err == nil && !from.state.Inbox.Has(id) {
			reason = packet.ImplementationSpecificError
		}
		from.mu.Unlock()
		done(reason)
	})
}

// deliver passes a message that was kept on to one session.
func deliver(s *Server, m *session.Message, h *hit) {
	p := m.Publish
	r := newRouting(nil, nil)
	r.by = p.From
	r.begin(&p)
	r.m = m
	u := unit{srv: s}
	u.deliver(r, h)
	if u.enqueued != nil {
		u.changes = append(u.changes, u.enqueued)
		u.submit(&r.round)
	}
}

// deliver passes a message on to one session: at once, or in the unit if the session is durable.
func (u *unit) deliver(r *routing, h *hit) {
	switch {
	case h.qos == 0:
		h.s.offer(r, h)
	case !h.s.filter.Load().receives(r.p.Topic, h.qos):
	case h.s.durable:
		u.enqueue(r, h)
	case h.s.full():
		u.srv.stats.Dropped.Add(1)
	case h.s.push(session.Queued{QoS: h.qos, Retain: h.retain, SubscriptionIDs: h.kept(), Share: h.share, Message: r.message()}, &r.round):
	case h.share != "":
		r.round.end() // the store may have to wait
		pass(u.srv, h.share, r.message())
	default:
		u.srv.stats.Dropped.Add(1)
	}
}

// retain makes the message the retained one of its topic, before it is routed: who subscribes now
// gets it as a subscriber, or finds it, or both. Statistics are retained in memory only. What the
// store then refuses is retained for as long as the gateway runs.
func (u *unit) retain(r *routing) error {
	m := r.message()
	if strings.HasPrefix(m.Publish.Topic, "$SYS/") {
		u.srv.routes.keep(m, math.MaxInt)
		return nil
	}
	most := u.srv.limits.RetainedBytes
	if r.from != nil && own(r.from.id) {
		most = math.MaxInt // the network cannot keep the gateway from telling its state
	}
	if u.srv.memory.scarce.Load() && most != math.MaxInt && len(m.Publish.Payload) > 0 {
		return errRetained
	}
	if !u.srv.routes.keep(m, most) {
		removeLapsed(u.srv, time.Now())
		if !u.srv.routes.keep(m, most) {
			return errRetained
		}
	}
	u.changes = append(u.changes, &session.Retained{Message: m})
	return nil
}

// errRetained is why a message is not retained that there would be room for in the store.
var errRetained = fmt.Errorf("%w of retained messages", session.ErrFull)

// A unit is what one message makes durable, and what happens when it is.
type unit struct {
	srv      *Server
	changes  []session.Change
	enqueued *session.Enqueued
	sessions []*Session   // of enqueued.To
	over     *atomic.Bool // committed was called; nil: nothing is delivered before
	from     *Session     // whose Inbox has id, nil below QoS 2
	id       uint16
	reason   packet.ReasonCode
	done     func(packet.ReasonCode) // nil: nobody waits
}

// enqueue adds a durable session as a target.
func (u *unit) enqueue(r *routing, h *hit) {
	if u.enqueued == nil {
		u.enqueued = &session.Enqueued{Message: r.message()}
	}
	to := u.srv.queues.target(h.s, r.p.Topic)
	to.QoS, to.Retain, to.SubscriptionIDs, to.Share = h.qos, h.retain, h.kept(), h.share
	u.enqueued.To = append(u.enqueued.To, to)
	u.sessions = append(u.sessions, h.s)
}

// submit hands the unit to the store, which may have to wait for room: the connections of the round do
// not. It reports false if there is nothing to store.
func (u *unit) submit(r *round) bool {
	if u.srv.absent.Load() && u.done != nil {
		v := *u
		v.enqueued = nil
		v.committed(errAbsent)
		return true
	}
	if len(u.changes) == 0 {
		return false
	}
	r.end()
	//crash:before-submit
	v := *u
	if u.srv.early && v.enqueued != nil {
		v.over = new(atomic.Bool)
		for i, t := range v.enqueued.To {
			t.Early = t.QoS == 1 && (*holder)(v.sessions[i]).attentive(t, v.enqueued.Message.Publish.Size(packet.V5))
		}
	}
	u.srv.store.Submit(v.changes, v.done == nil, v.committed)
	//crash:submitted
	if v.over != nil {
		v.deliverEarly()
	}
	return true
}

// committed delivers what is now in the store, and lets the acknowledgement go.
func (u *unit) committed(err error) {
	if u.over != nil {
		u.over.Store(true)
	}
	if err != nil {
		if !errors.Is(err, errRetained) {
			u.srv.stats.Unstored.Add(1)
		}
		u.reason = reasonOf(err)
		if u.from != nil {
			u.from.mu.Lock()
			u.from.state.Inbox.Release(u.id)
			u.from.mu.Unlock()
		}
	}
	if u.enqueued != nil {
		u.deliverStored(err)
	}
	//crash:before-acknowledgement
	u.acknowledge()
}

// deliverEarly passes on what will be in the store, to those who need not wait for it.
func (u *unit) deliverEarly() {
	for i, t := range u.enqueued.To {
		if t.Early && t.Position > 0 {
			(*holder)(u.sessions[i]).take(u.over, queued(t, u.enqueued.Message))
		}
	}
}

// queued returns a message as it is in the queue of a target.
func queued(t *session.Target, m *session.Message) session.Queued {
	return session.Queued{
		Position: t.Position, QoS: t.QoS, Retain: t.Retain,
		SubscriptionIDs: t.SubscriptionIDs, Share: t.Share, Message: m,
	}
}

// deliverStored passes on what the store has taken, and lets go of the queues that made room for it.
func (u *unit) deliverStored(err error) {
	for i, t := range u.enqueued.To {
		//crash:before-delivery
		n := (*holder)(u.sessions[i])
		switch {
		case err != nil:
			n.failed(t)
		case t.Position > 0:
			u.sessions[i].committed(queued(t, u.enqueued.Message))
		default:
			n.missed()
		}
		if err == nil {
			n.vanished(u.enqueued.Dropped, t.Position == 0)
		}
		if t.Held {
			n.letGo()
		}
	}
	if err == nil {
		u.srv.losses.lost(u.enqueued.Dropped)
	}
}

// acknowledge lets the acknowledgement go.
func (u *unit) acknowledge() {
	if u.done != nil {
		u.done(u.reason)
	}
}

// reasonOf returns the reason code for a message that the store did or did not take.
func reasonOf(err error) packet.ReasonCode {
	switch {
	case err == nil:
		return packet.Success
	case errors.Is(err, session.ErrFull):
		return packet.QuotaExceeded
	default:
		return packet.ImplementationSpecificError
	}
}

// publishWill publishes the will of a client, together with changes that go with it. If the store does
// not take the message, the changes are made without it.
func (s *Server) publishWill(client string, w *packet.Will, with []session.Change) {
	p := packet.Publish{Topic: w.Topic, Payload: w.Payload, QoS: w.QoS, Retain: w.Retain, Properties: w.Properties}
	r := newRouting(nil, nil)
	r.by = client
	r.begin(&p)
	r.with = with
	s.publish(r, func(reason packet.ReasonCode) {
		if reason.Failed() {
			s.later(with)
		}
	})
}
