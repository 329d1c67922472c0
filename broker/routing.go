package broker

import (
	"slices"
	"time"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// A routing is one message on its way from its publisher to its subscribers. It is reused for
// the next message of the same publisher, so that QoS 0 costs no memory.
type routing struct {
	received packet.Publish // room for the message of a network client

	p     *packet.Publish  // as published; its payload may be lent
	m     *session.Message // made at the first need: the message that may be kept
	from  *Session         // nil for the gateway's own
	peer  peer             // the connection of from that the message came by
	at    time.Time
	hits  []hit
	ids   []uint32                 // room for those of the hits
	props packet.PublishProperties // room for those of one hit
	with  []session.Change         // to be stored in one unit with the message

	filter string           // whose subscriptions are being added
	before int              // hits of other filters
	places map[*Session]int // of these hits; empty: they are few
	shares bool             // some of hits are durable members of groups, see settle

	round round
	rest  func(work int) // lets other clients through if the work was long; nil for the gateway's own

	// add and addGroup, made once
	visit      func(filter string, s *Session, sub subscription)
	visitGroup func(filter string, g *group, _ struct{})
}

func newRouting(from *Session, by peer) *routing {
	r := &routing{from: from, peer: by}
	r.visit, r.visitGroup = r.add, r.addGroup
	return r
}

// A hit is a session that a message goes to.
type hit struct {
	s      *Session
	qos    packet.QoS
	retain bool
	ids    []uint32 // lent by the routing
	share  string   // the shared subscription by which it is one, empty: another one
}

// kept returns the subscription identifiers of a hit for those who keep them.
func (h *hit) kept() []uint32 { return slices.Clone(h.ids) }

// message returns the message for those who keep it.
func (r *routing) message() *session.Message {
	if r.m == nil {
		if r.at.IsZero() {
			r.at = time.Now()
		}
		p := *r.p
		p.ID, p.Dup = 0, false
		p.From = r.publisher()
		p.Payload = append([]byte(nil), r.p.Payload...)
		if p.Properties != nil {
			props := *p.Properties // they are lent
			props.TopicAlias = 0
			p.Properties = &props
		}
		r.m = &session.Message{Publish: p, At: r.at}
	}
	return r.m
}

// publisher returns the client identifier of the one whose message it is, empty if it is the gateway's.
func (r *routing) publisher() string {
	if r.from == nil {
		return ""
	}
	return r.from.id
}

// sender returns whose messages a member of a group is to get in order. If that is not known, as of a
// message that is handed on and comes from the store, it is the topic.
func (r *routing) sender() string {
	switch {
	case r.from != nil:
		return r.from.id
	case r.m != nil && r.m.Publish.From != "":
		return r.m.Publish.From
	}
	return r.p.Topic
}

// begin makes the routing ready for the next message.
func (r *routing) begin(p *packet.Publish) {
	clear(r.hits)
	r.p, r.m, r.at, r.hits, r.ids, r.with = p, nil, time.Time{}, r.hits[:0], r.ids[:0], nil
	if cap(r.ids) > mostIDs {
		r.ids = nil
	}
	r.filter, r.before = "", 0
	clear(r.places)
}

// mostIDs is for how many subscription identifiers room is kept for the next message.
const mostIDs = 4 << 10

// deny decides whether the client may publish what was received. What was taken before at QoS 2 is
// only repeated: its sender has to come to an end with it.
func (r *routing) deny(a *access) error {
	p := &r.received
	if p.QoS == 2 {
		r.from.mu.Lock()
		taken := r.from.state.Inbox.Has(p.ID)
		r.from.mu.Unlock()
		if taken {
			return nil
		}
	}
	if why := a.publish(p); why != "" {
		return &packet.Error{Clause: "5.4.2", Reason: packet.NotAuthorized, Text: why}
	}
	return nil
}

// add notes that a subscription matches. A session with several matching subscriptions gets the
// message once, at the highest of their QoS, with all their identifiers [MQTT-3.3.4-2, -3.3.4-3].
func (r *routing) add(filter string, s *Session, sub subscription) {
	if sub.noLocal && s == r.from {
		return
	}
	if filter != r.filter {
		r.filter, r.before = filter, len(r.hits)
	}
	retain := sub.retainAsPublished && r.p.Retain
	h := r.earlier(s)
	if h == nil {
		r.hit(s, sub, retain)
		return
	}
	h.qos = max(h.qos, min(sub.qos, r.p.QoS))
	h.retain = h.retain || retain
	r.addID(h, sub)
}

// earlier returns the hit of a session by another filter than the one that is being added, nil if
// there is none. A session has a filter once. Beyond a few hits a map keeps the time linear.
func (r *routing) earlier(s *Session) *hit {
	const few = 16
	if r.before <= few {
		for i := range r.hits[:r.before] {
			if r.hits[i].s == s {
				return &r.hits[i]
			}
		}
		return nil
	}
	if r.places == nil {
		r.places = make(map[*Session]int, r.before)
	}
	for i := len(r.places); i < r.before; i++ {
		r.places[r.hits[i].s] = i
	}
	if i, ok := r.places[s]; ok {
		return &r.hits[i]
	}
	return nil
}

// addGroup notes that a shared subscription matches, which is apart from what the member whose
// turn it is gets otherwise.
func (r *routing) addGroup(_ string, g *group, _ struct{}) {
	m, ok := g.pick(r.p.Topic, r.p.QoS, r.sender())
	if !ok {
		return
	}
	r.hit(m.s, m.sub, m.sub.retainAsPublished && r.p.Retain)
	r.hits[len(r.hits)-1].share = g.full
	if m.s.durable {
		r.shares = true
		m.s.coming.Add(1)
	}
}

// settle tells that the message has been handed to the store for all durable members of groups that it was
// matched with. Who ends such a session waits for that.
func (r *routing) settle() {
	if !r.shares {
		return
	}
	r.shares = false
	for i := range r.hits {
		if h := &r.hits[i]; h.share != "" && h.s.durable {
			h.s.coming.Done()
		}
	}
}

// hit notes that a session gets the message by a subscription.
func (r *routing) hit(s *Session, sub subscription, retain bool) {
	r.hits = append(r.hits, hit{s: s, qos: min(sub.qos, r.p.QoS), retain: retain})
	r.addID(&r.hits[len(r.hits)-1], sub)
}

// addID adds the identifier of a subscription, if it has one, to those of a hit.
func (r *routing) addID(h *hit, sub subscription) {
	if sub.id == 0 {
		return
	}
	first := len(r.ids)
	r.ids = append(append(r.ids, h.ids...), sub.id)
	h.ids = r.ids[first:len(r.ids):len(r.ids)]
}

// remaining returns the message expiry interval that is left after a wait (5.0, 3.3.2.3.3);
// expired is true when none is.
func remaining(m *session.Message, now time.Time) (seconds uint32, expired bool) {
	p := m.Publish.Properties
	if p == nil || !p.HasMessageExpiry {
		return 0, false
	}
	left := time.Duration(p.MessageExpiry)*time.Second - m.Waited - now.Sub(m.At)
	if left <= 0 {
		return 0, true
	}
	return uint32((left + time.Second - 1) / time.Second), false
}

// outgoing returns the PUBLISH for one subscriber of a message. Its properties are the
// publisher's, with what is left of the message's life and the subscriber's own identifiers
// [MQTT-3.3.2-6], [MQTT-3.3.4-3]. They are in props, which is empty, or in a list of their own if it is nil.
func outgoing(p *packet.Publish, expiry uint32, ids []uint32, props *packet.PublishProperties) packet.Publish {
	o := *p
	if p.Properties == nil && len(ids) == 0 {
		return o
	}
	if props == nil {
		props = new(packet.PublishProperties)
	}
	if p.Properties != nil {
		*props = *p.Properties
	}
	props.TopicAlias, props.SubscriptionIDs = 0, ids
	if props.HasMessageExpiry {
		props.MessageExpiry = expiry
	}
	o.Properties = props
	return o
}
