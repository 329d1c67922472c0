package broker

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// A link is the writing side of one network connection: the peer that a session delivers to.
type link struct {
	out
	aliases   aliasesOut
	mount     mount
	maxPacket int                           // bytes that the client takes, 0: any
	explains  bool                          // it wants to be told why [MQTT-3.1.2-29]
	incoming  atomic.Int32                  // QoS 1 and 2 messages taken and not acknowledged
	begun     atomic.Bool                   // CONNACK has been sent
	cause     atomic.Pointer[packet.Error]  // why the server ended the connection
	midway    atomic.Pointer[chan struct{}] // closed when the packet is done that others wait for; nil: there is none
}

// acknowledged sends a PUBACK or PUBREC. Before 5.0 neither can tell of a failure: the client
// keeps its message, and sends it again when it is back.
func (l *link) acknowledged(place uint64, a packet.Ack) {
	if a.Type == packet.PUBACK || a.Reason.Failed() {
		l.settled()
	}
	if a.Reason.Failed() && l.version < packet.V5 {
		pushBack(l, &packet.Error{Clause: "MQTT-4.8.0-2", Reason: a.Reason, Text: "the message could not be stored"})
		return
	}
	a.ReasonString = explain(l, &a, a.Reason, a.ReasonString)
	l.complete(place, a)
}

// pushBackTime is for how long a client before 5.0 whose message was refused is kept from trying again.
const pushBackTime = 2 * time.Second

// pushBack ends the connection of a client whose message was refused, after a while: nothing more is
// taken from it, and it gets no acknowledgement, so that its messages stay in their order.
func pushBack(l *link, e *packet.Error) {
	if e.Reason != packet.QuotaExceeded {
		l.fail(e)
		return
	}
	if l.cause.CompareAndSwap(nil, e) {
		time.AfterFunc(pushBackTime, func() { l.end(e) })
	}
}

// explain returns the reason string for an acknowledgement that has none yet: text, or what can be
// said of every failure. It is empty for a client that does not want it, or does not take it
// [MQTT-3.1.2-29], [MQTT-3.4.2-2], [MQTT-3.5.2-2], [MQTT-3.6.2-2], [MQTT-3.7.2-2], [MQTT-3.9.2-1].
func explain(l *link, p encoder, reason packet.ReasonCode, text string) string {
	if !l.explains || !reason.Failed() {
		return ""
	}
	if text == "" {
		switch reason {
		case packet.QuotaExceeded:
			text = "there is no more room for messages: the store, limits.retained_size or limits.memory is full"
		case packet.ImplementationSpecificError:
			text = "the store failed: the gateway's log says why"
		case packet.PacketIDNotFound:
			text = "no message with this packet identifier is on its way"
		case packet.UnspecifiedError:
			text = "the session has ended, or another connection has it now"
		default:
			return ""
		}
	}
	// The text, its property identifier and length, and a length of the properties that may grow.
	const around = 7
	if l.maxPacket > 0 && len(p.Append(nil, l.version))+len(text)+around > l.maxPacket {
		return ""
	}
	return text
}

// answered sends a PUBCOMP.
func (l *link) answered(place uint64, a packet.Ack, err error) {
	if err != nil {
		l.fail(&packet.Error{Clause: "MQTT-4.8.0-2", Reason: reasonOf(err), Text: "PUBREL could not be stored"})
		return
	}
	l.settled()
	a.ReasonString = explain(l, &a, a.Reason, "")
	l.complete(place, a)
}

// settled counts one message less of those that wait for an acknowledgement. A PUBREL may be for
// one of an earlier connection, which was not counted here (5.0, 4.9).
func (l *link) settled() {
	if l.incoming.Add(-1) < 0 {
		l.incoming.Add(1)
	}
}

// concluded sends a SUBACK or UNSUBACK, with the reason why the first filter was refused that was.
// Before 5.0 an UNSUBACK cannot tell that the end of a subscription could not be stored.
func (l *link) concluded(place uint64, a *packet.Suback, err error) {
	if err != nil && l.version < packet.V5 && a.Type == packet.UNSUBACK {
		l.fail(&packet.Error{Clause: "MQTT-4.8.0-2", Reason: reasonOf(err), Text: "the end of a subscription could not be stored"})
		return
	}
	if i := slices.IndexFunc(a.Reasons, packet.ReasonCode.Failed); i >= 0 {
		text := ""
		switch a.Reasons[i] {
		case packet.NotAuthorized:
			text = a.ReasonString
		case packet.TopicFilterInvalid:
			text = "the filter is not valid, or larger than limits.topic_size and limits.topic_levels allow"
		case packet.QuotaExceeded:
			text = "there are as many subscriptions as limits.subscriptions, limits.subscriptions_size and limits.memory allow, or the store is full"
		}
		a.ReasonString = ""
		a.ReasonString = explain(l, a, a.Reasons[i], text)
	}
	l.completeSub(place, a)
}

// released sends a PUBREL.
func (l *link) released(a packet.Ack, err error) {
	if err != nil {
		l.fail(&packet.Error{Clause: "MQTT-4.8.0-2", Reason: reasonOf(err), Text: "PUBREC could not be stored"})
		return
	}
	a.ReasonString = explain(l, &a, a.Reason, "")
	l.send(&a)
}

// fail ends the connection from another goroutine.
func (l *link) fail(e *packet.Error) {
	l.cause.CompareAndSwap(nil, e)
	l.end(e)
}

// end sends a DISCONNECT, where the version has one for servers, and closes the connection.
func (l *link) end(e *packet.Error) {
	if l.begun.Load() && l.version == packet.V5 {
		last := &packet.Disconnect{Reason: e.Reason, ReasonString: e.Error()}
		if !l.takes(last) {
			last.ReasonString = "" // [MQTT-3.14.2-3]
		}
		l.out.end(last)
		return
	}
	l.out.end(nil)
}

// takes reports whether a packet is within the client's Maximum Packet Size.
func (l *link) takes(p encoder) bool {
	return l.maxPacket == 0 || len(p.Append(nil, l.version)) <= l.maxPacket
}

// answerable refuses a SUBSCRIBE or UNSUBSCRIBE whose acknowledgement would be larger than the client
// takes [MQTT-3.1.2-24]: nothing may take effect of which it is not told.
func answerable(l *link, t packet.Type, filters int) error {
	if l.maxPacket == 0 || l.takes(&packet.Suback{Type: t, Reasons: make([]packet.ReasonCode, filters)}) {
		return nil
	}
	return &packet.Error{Clause: "MQTT-3.1.2-24", Reason: packet.PacketTooLarge, Text: fmt.Sprintf("the client takes no acknowledgement of %d filters", filters)}
}

func (l *link) offer(r *routing, h *hit) bool {
	if !l.room() {
		return false
	}
	expiry := uint32(0)
	if x := r.p.Properties; x != nil {
		expiry = x.MessageExpiry
	}
	r.props = packet.PublishProperties{}
	p := outgoing(r.p, expiry, h.ids, &r.props)
	if p.Properties == nil && l.aliases.max > 0 {
		p.Properties = &r.props // it may get an alias
	}
	p.Dup, p.QoS, p.ID, p.Retain = false, 0, 0, h.retain
	l.put(&p, &r.round)
	return true
}

func (l *link) deliver(e *session.Entry, expiry uint32, dup bool, r *round) bool {
	p := outgoing(&e.Message.Publish, expiry, e.SubscriptionIDs, nil)
	p.ID, p.QoS, p.Retain, p.Dup = session.PacketID(e.Position), e.QoS, e.Retain, dup
	if e.Frees {
		l.pubrel(p.ID)
	}
	return l.put(&p, r)
}

// put sends a PUBLISH, in a round if there is one, unless it is more than the client takes
// [MQTT-3.1.2-24], which is counted, or not for it: no message of its own is lost then.
func (l *link) put(p *packet.Publish, r *round) bool {
	if !l.mount.send(p) {
		return false
	}
	spare := aliasSize
	if l.maxPacket > 0 {
		spare = l.maxPacket - p.Size(l.version)
	}
	if spare < 0 {
		l.srv.stats.TooLarge.Add(1)
		return false
	}
	if spare >= aliasSize {
		l.aliases.replace(p)
	}
	l.publish(p, r)
	l.srv.stats.Sent.Add(1)
	l.srv.stats.PayloadSent.Add(int64(len(p.Payload)))
	return true
}

// await waits while the client has not taken most of the retained messages that it has asked for. It
// reports false if it will not take any more.
func (l *link) await(ctx context.Context, n *Session) bool {
	behind, here := lags(l, n)
	if !behind {
		return here
	}
	for less := lessened(&l.out); ; {
		if behind, here = lags(l, n); !behind {
			return here
		}
		select {
		case <-less:
		case <-ctx.Done():
			return false
		}
	}
}

// lags reports whether a client has many messages to take, and whether it will take any more.
func lags(l *link, n *Session) (behind, here bool) {
	n.mu.Lock()
	here, behind = n.peer == l, len(n.backlog) >= backlogLimit
	n.mu.Unlock()
	here = here && !ends(&l.out)
	return behind && here, here
}

func (l *link) pubrel(id uint16) { l.send(&packet.Ack{Type: packet.PUBREL, ID: id}) }

func (l *link) room() bool { return l.begun.Load() && l.out.room() }

func (l *link) kick(reason packet.ReasonCode) (busy <-chan struct{}) {
	e := &packet.Error{Clause: "3.14.2.1", Reason: reason, Text: "the gateway ends the connection"}
	if reason == packet.SessionTakenOver {
		e.Clause, e.Text = "MQTT-3.1.4-3", "another connection uses the client identifier"
	}
	l.fail(e)
	if done := l.midway.Load(); done != nil { // after the cause is told, none is interrupted any more
		return *done
	}
	return nil
}
