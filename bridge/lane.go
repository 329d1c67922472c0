package bridge

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"gateway/broker/packet"
)

// Lanes are the queues of a bridge. The first one has what goes in strict order. The others exist
// when a rule says live first: one of them at a time has the subscriptions of these rules, and so
// the fresh messages; the others have the backlogs of former outages, see Bridge.lanes.
const (
	strictLane = 0
	liveLanes  = 3
	// MaxLanes is how many sessions a bridge may open.
	MaxLanes = 1 + liveLanes
)

// The packet identifiers of a connection are divided among the lanes, and the requests that are no
// messages. A session counts its identifiers from 1 to 65,535 and around; laneIDs divides that, so
// that messages which are under way together get identifiers of their own. The mapping needs no
// memory: after a restart each message has the identifier that the cloud may know it by.
const (
	laneIDs    = 13_107
	requestIDs = MaxLanes*laneIDs + 1 // the first that no lane uses
)

// wireID returns the packet identifier with which a message of a lane is sent.
func wireID(lane int, id uint16) uint16 {
	return uint16(lane*laneIDs) + (id-1)%laneIDs + 1
}

// A lane is one queue during one connection. Its goroutine sends from it.
type lane struct {
	number  int
	session Session
	history bool  // its messages are of an outage that is over
	after   *lane // the one whose backlog goes first; nil: none
	backlog int   // messages that waited when the connection began, and have not been sent
	share   int   // of the window

	inFlight int // guarded by the handover's lock
	// room has one slot: a signal that a delivery has ended. Full, it is a signal already.
	room chan struct{}
}

// delivery begins the delivery of a message of the lane.
func (l *lane) delivery(p packet.Publish) *delivery {
	return &delivery{lane: l, stage: sent, id: wireID(l.number, p.ID), p: p, fresh: l.backlog == 0}
}

// A Rate bounds how fast a backlog is sent after an outage; 0: not at all.
type Rate struct {
	Messages int // a second
	Bytes    int // of payload a second
}

// A pacer holds a backlog back to a Rate.
type pacer struct{ messages, bytes *rate.Limiter }

func newPacer(r Rate) pacer {
	limiter := func(n int) *rate.Limiter {
		if n == 0 {
			return rate.NewLimiter(rate.Inf, 1)
		}
		return rate.NewLimiter(rate.Limit(n), max(n/10, 1)) // evenly, to a tenth of a second
	}
	return pacer{limiter(r.Messages), limiter(r.Bytes)}
}

// wait waits until a message of so many bytes may be sent.
func (p pacer) wait(ctx context.Context, size int) error {
	if err := p.messages.Wait(ctx); err != nil {
		return err
	}
	for size > 0 && p.bytes.Limit() != rate.Inf {
		n := min(size, p.bytes.Burst())
		if err := p.bytes.WaitN(ctx, n); err != nil {
			return err
		}
		size -= n
	}
	return nil
}

// drain sends what a lane has, until ctx or the connection ends.
func (h *handover) drain(ctx context.Context, l *lane) error {
	const look = 100 * time.Millisecond
	for l.after != nil && l.after.session.Waiting() > 0 {
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for {
		if err := h.next(ctx, l); err != nil {
			return err
		}
	}
}

// next sends the next message of a lane as soon as there is room for it.
func (h *handover) next(ctx context.Context, l *lane) error {
	p, wasAccepted, err := l.session.Next(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errLocal, err)
	}
	//crash:message-taken
	d := l.delivery(p)
	if !d.fresh {
		l.backlog--
		if err := h.pacer.wait(ctx, len(p.Payload)); err != nil {
			return err
		}
	}
	return h.forward(ctx, d, wasAccepted)
}

// forward sends one message of a lane to the cloud. An error is one of the connection.
func (h *handover) forward(ctx context.Context, d *delivery, wasAccepted bool) error {
	if l, ok := openLetter(againPrefix(h.name), d.p); ok {
		d.p, d.fresh = l.Publish, false // it counted when it came first
	}
	p := d.p
	if wasAccepted {
		if h.lost { // the cloud had it, and has forgotten the identifier
			d.skip()
			return nil
		}
		d.stage, d.qos = released, 2
		if err := h.admit(ctx, d); err != nil {
			return err
		}
		h.link.answer(packet.Ack{Type: packet.PUBREL, ID: d.id})
		return nil
	}
	rule, remote, ok := h.rules.out(p.Topic)
	if !ok {
		h.drops.add("no outgoing rule maps the topic any more", p.Topic)
		d.skip()
		return nil
	}
	d.qos = min(p.QoS, rule.QoS)
	out := packet.Publish{Dup: p.Dup && d.qos > 0, QoS: d.qos, Retain: p.Retain, Topic: remote, Payload: p.Payload}
	if d.qos > 0 {
		out.ID = d.id
	}
	if h.version >= packet.V5 {
		var ok bool
		if out.Properties, ok = crossing(p, d.lane.history); !ok {
			h.drops.add(circle, p.Topic)
			d.skip()
			return nil
		}
		out.Properties.ResponseTopic = h.rules.answerUp(out.Properties.ResponseTopic)
	}
	if d.fresh && h.echoes.circles(Out, p.From, remote, p.Payload, time.Now()) {
		h.drops.circle(p.Topic)
		h.bury(d, roundAndRound)
		return nil
	}
	if why := h.never(h.version, out, p.Dup); why != "" {
		h.bury(d, why)
		return nil
	}
	d.frees = d.qos == 2 && !h.lost && d.lane.session.Frees(p.ID)
	if d.qos > 0 {
		if err := h.admit(ctx, d); err != nil {
			return err
		}
	}
	if d.frees {
		h.link.answer(packet.Ack{Type: packet.PUBREL, ID: d.id})
	}
	err := h.link.send(out)
	//crash:message-sent
	if err == nil && d.qos == 0 {
		d.skip()
	}
	return err
}

// skip is done with a message that nothing more is to come for.
func (d *delivery) skip() {
	if d.p.QoS > 0 {
		d.lane.session.Done(d.p.ID)
	}
}
