package broker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gateway/broker/packet"
	"gateway/broker/session"
	"gateway/broker/topic"
)

// handleSubscribe carries out a SUBSCRIBE. done is called with the SUBACK when the subscriptions
// are durable, if the session is. Retained messages follow, as the options say [MQTT-3.3.1-9..11];
// they are paused for.
func (s *Server) handleSubscribe(n *Session, p *packet.Subscribe, not denied, pause pauses, done func(packet.Suback)) {
	ack := packet.Suback{Type: packet.SUBACK, ID: p.ID, ReasonString: not.first}
	var changes []session.Change
	var fresh []packet.Subscription // those whose retained messages are to be sent
	var made []unstored
	for i, f := range p.Filters {
		pause.rest(filterEffort(f.Filter))
		reason := packet.NotAuthorized
		if !not.filters[i] {
			reason = n.mayCarry(f)
		}
		ack.Reasons = append(ack.Reasons, reason)
		if reason.Failed() {
			continue
		}
		old, existed := s.routes.subscribe(n, f, p.SubscriptionID)
		if !isShared(f.Filter) && (f.RetainHandling == 0 || f.RetainHandling == 1 && !existed) {
			fresh = append(fresh, f)
		}
		if n.durable {
			made = append(made, unstored{f.Filter, newSubscription(f, p.SubscriptionID), old, existed})
			changes = append(changes, &session.Subscribed{Client: n.id, Subscription: f, ID: p.SubscriptionID})
		}
	}
	s.conclude(changes, ack, func(ack packet.Suback, err error) {
		for i := len(made) - 1; err != nil && i >= 0; i-- {
			takeBack(&s.routes, n, made[i])
		}
		done(ack)
	})
	for _, f := range fresh {
		if !pause.wait() {
			return
		}
		sendRetained(s, n, f, p.SubscriptionID, pause.rest)
	}
}

// pauses are those within the work of one SUBSCRIBE.
type pauses struct {
	// wait waits, before the retained messages of a filter, until most of what came before is on
	// its way. It reports whether to go on.
	wait func() bool
	rest func(work int) // lets other clients through if the work was long
}

// unhurried are the pauses of the gateway's own clients, which do not make any.
var unhurried = pauses{wait: func() bool { return true }, rest: func(int) {}}

// filterEffort returns about how much work a filter is, in the units of a turn.
func filterEffort(filter string) int { return 4 + strings.Count(filter, "/") }

// conclude calls done with a SUBACK or UNSUBACK when the changes that it tells of are durable. If
// they cannot be, every filter has failed.
func (s *Server) conclude(changes []session.Change, ack packet.Suback, done func(packet.Suback, error)) {
	if len(changes) == 0 {
		done(ack, nil)
		return
	}
	s.store.Submit(changes, false, func(err error) {
		if err != nil {
			s.stats.Unstored.Add(1)
			for i := range ack.Reasons {
				ack.Reasons[i] = reasonOf(err)
			}
		}
		done(ack, err)
	})
}

// mayCarry decides about one filter of a SUBSCRIBE: the QoS granted, or why not.
func (n *Session) mayCarry(f packet.Subscription) packet.ReasonCode {
	l := &n.srv.limits
	if topic.ValidFilter(f.Filter) != nil {
		return packet.TopicFilterInvalid
	}
	if limit := l.exceeded(f.Filter); limit != "" {
		n.srv.stats.Limits.add(limit)
		return packet.TopicFilterInvalid
	}
	room := own(n.id) || !n.srv.memory.scarce.Load() && n.srv.routes.holds(f.Filter, l.SubscriptionBytes)
	n.mu.Lock()
	existed := n.subs.has(f.Filter)
	has, ended := len(n.subs), n.ended || n.leaving != nil
	n.mu.Unlock()
	switch {
	case ended:
		return packet.UnspecifiedError
	case !existed && (has >= l.Subscriptions || !room):
		switch {
		case has >= l.Subscriptions:
			n.srv.stats.Limits.add("subscriptions")
		case n.srv.memory.scarce.Load():
			n.srv.stats.Limits.add("memory")
		default:
			n.srv.stats.Limits.add("subscriptions_size")
		}
		if untold, due := n.srv.unsubscribed.due(); due {
			n.srv.log.Warn("subscriptions are refused", "client", n.id, "has", has, "others_before", untold,
				"remedy", "find out who subscribes so much, or raise limits.subscriptions, limits.subscriptions_size or limits.memory")
		}
		return packet.QuotaExceeded
	}
	return packet.ReasonCode(f.QoS)
}

// sendRetained sends the retained messages that match a new subscription: with No Local not those of the
// client itself, as far as is known since the gateway began [MQTT-3.8.3-3].
func sendRetained(s *Server, n *Session, f packet.Subscription, id uint32, rest func(int)) {
	h := hit{s: n, retain: true}
	if id != 0 {
		h.ids = []uint32{id}
	}
	now := time.Now()
	for _, m := range s.routes.kept(f.Filter) {
		rest(2)
		if f.NoLocal && m.Publish.From == n.id {
			continue
		}
		h.qos = min(f.QoS, m.Publish.QoS)
		s.retaining.Lock()
		switch _, expired := remaining(m, now); {
		case !s.routes.keeps(m): // a newer one has come, to the subscriber too
		case expired:
			// It is nobody's any more (5.0, 3.3.2.3.3).
			s.later([]session.Change{unretain(s, m, now)})
		case h.qos == 0:
			n.backlogged(m, &h)
		default:
			deliver(s, m, &h)
		}
		s.retaining.Unlock()
	}
	n.resume()
}

// backlogged queues a retained message at QoS 0, which waits until there is room.
func (n *Session) backlogged(m *session.Message, h *hit) {
	n.mu.Lock()
	if n.peer != nil && n.access.receives(m.Publish.Topic, 0) {
		n.backlog = append(n.backlog, waiting{m, h.retain, h.kept()})
	}
	n.mu.Unlock()
}

// withdraw ends the subscriptions of a session that its client may not have any more. What came by them, or
// by those that ended so before, is asked about before it leaves the queue.
func withdraw(s *Server, n *Session, a *access) {
	n.mu.Lock()
	filters := slices.Clone(n.subs)
	n.mu.Unlock()
	var changes []session.Change
	for _, f := range filters {
		if !a.keeps(f) && s.routes.unsubscribe(n, f) {
			changes = append(changes, &session.Unsubscribed{Client: n.id, Filter: f})
		}
	}
	s.later(changes)
	doubt(n, len(changes) > 0)
}

// handleUnsubscribe carries out an UNSUBSCRIBE. done is called with the UNSUBACK when that is
// durable, and with the reason if it cannot be. Messages that are queued already are still
// delivered (5.0, 3.10.4).
func (s *Server) handleUnsubscribe(n *Session, p *packet.Unsubscribe, rest func(work int), done func(packet.Suback, error)) {
	ack := packet.Suback{Type: packet.UNSUBACK, ID: p.ID}
	var changes []session.Change
	for _, filter := range p.Filters {
		rest(filterEffort(filter))
		reason := packet.Success
		switch {
		case topic.ValidFilter(filter) != nil:
			reason = packet.TopicFilterInvalid
		case !s.routes.unsubscribe(n, filter):
			reason = packet.NoSubscriptionExisted
		case n.durable:
			changes = append(changes, &session.Unsubscribed{Client: n.id, Filter: filter})
		}
		ack.Reasons = append(ack.Reasons, reason)
	}
	s.conclude(changes, ack, done)
}

// Reserved reports whether a topic is the gateway's own, so that clients cannot publish to it: one of
// its statistics, of the notes of its bridges, or of their dead letters.
func Reserved(name string) bool {
	return strings.HasPrefix(name, "$") &&
		(strings.HasPrefix(name, sys) || strings.HasPrefix(name, "$bridge/") || strings.HasPrefix(name, "$dead/"))
}

// checkTopic decides about the topic of a message from a client. Statistics are the server's
// own to publish (5.0, 4.7.2).
func (l *Limits) checkTopic(name string) error {
	if Reserved(name) {
		return &packet.Error{Clause: "4.7.2", Reason: packet.NotAuthorized, Text: "topics below $SYS/, $bridge/ and $dead/ are the gateway's own"}
	}
	if limit := l.exceeded(name); limit != "" {
		return &packet.Error{Clause: "4.7", Reason: packet.TopicNameInvalid, Text: "the topic name is longer or deeper than limits." + limit + " allows", Limit: limit}
	}
	if err := topic.ValidName(name); err != nil {
		e := &packet.Error{Clause: "4.7", Reason: packet.TopicNameInvalid, Text: err.Error()}
		if te, ok := errors.AsType[*topic.Error](err); ok {
			e.Clause, e.Text = te.Clause, fmt.Sprintf("topic name: %s", te.Text)
		}
		return e
	}
	return nil
}

// exceeded returns which limit a topic name or filter exceeds, "" if none.
func (l *Limits) exceeded(t string) string {
	switch {
	case len(t) > l.TopicBytes:
		return "topic_size"
	case strings.Count(t, "/") >= l.TopicLevels:
		return "topic_levels"
	}
	return ""
}
