package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"gateway/broker/packet"
)

// headDelay is how long a new connection waits for the head of the queue before it subscribes:
// the packet identifier of SUBSCRIBE is chosen away from those that may be in flight
// [MQTT-2.3.1-2], and an empty queue gives no sign of being empty.
const headDelay = 200 * time.Millisecond

// A handover is the exchange of messages between the local session and one connection to the
// cloud: at least once at QoS 1, exactly once at QoS 2, in order, in both directions. It holds
// nothing that must survive: what is durable is in the session.
//
// Outgoing, per message: PUBLISH leaves, PUBREC comes, Accepted is durable, PUBREL leaves,
// PUBCOMP comes, Done. PUBREL before Accepted would let a restart send the PUBLISH again, to a
// cloud that has forgotten it: a second copy. Incoming: PUBLISH comes, Publish is durable, PUBREC
// leaves, PUBREL comes, Release is durable, PUBCOMP leaves. PUBCOMP before Release would let a
// restart take the next message with the same identifier for the old one: a lost message.
type handover struct {
	intake // the way down; both ways share its rules, life and link

	session    Session
	window     int           // unacknowledged messages
	timeout    time.Duration // for the acknowledgement of the oldest message
	log        *slog.Logger
	subscribed func() // called when the cloud has the subscriptions
	lost       bool   // the cloud has no session: set by connected, before everything else

	mu       sync.Mutex
	out      map[uint16]*delivery
	line     []*delivery // in order of sending; finished ones leave when they are at the front
	limit    int         // of len(out): the window, or less after a suspicious loss
	awaiting int         // deliveries that wait for the cloud, not for the disk
	watch    *time.Timer // ends the connection when the head of the line is not acknowledged
	acked    int64       // acknowledgements that came

	// room has one slot: a signal that a delivery has ended. Full, it is a signal already.
	room chan struct{}
}

// A delivery is one outgoing message that is not Done.
type delivery struct {
	stage stage
	qos   packet.QoS
	id    uint16
	topic string // in the cloud
	size  int    // bytes of the payload
	at    time.Time
}

type stage byte

const (
	sent      stage = iota // PUBLISH has left
	accepting              // PUBREC has come and is being made durable
	released               // PUBREL may have left
	finished
)

func newHandover(c Config, s Session, l *life, d *drops) *handover {
	h := &handover{
		intake: intake{
			inbox: s, rules: c.Rules, life: l, drops: d,
			receipts: receipts{slots: make(chan struct{}, maxReceipts)},
		},
		session: s, window: c.Window, timeout: c.AckTimeout, log: d.log,
		out:   make(map[uint16]*delivery),
		limit: c.Window,
		room:  make(chan struct{}, 1),
	}
	h.watch = time.AfterFunc(c.AckTimeout, h.late)
	h.watch.Stop() // until something is sent
	return h
}

// late ends the connection, unless the head of the line waits for the local disk.
func (h *handover) late() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.line) > 0 && h.line[0].stage == accepting {
		h.watch.Reset(h.timeout)
		return
	}
	h.life.end(errSilent)
}

var (
	errLocal    = errors.New("local session")
	errSilent   = errors.New("the cloud does not acknowledge what it is sent")
	errProtocol = errors.New("the cloud breaks the protocol")
)

// connected begins the exchange.
func (h *handover) connected(l link, sessionPresent bool) {
	h.link = l
	h.backlog = newBacklog(h.heard, sessionPresent, time.Now())
	if h.lost = !sessionPresent; h.lost {
		h.session.Forget()
	}
}

// run sends what the session holds until the connection or ctx ends. subscribe are the filters
// to subscribe to in the cloud first, none if the cloud knows them.
func (h *handover) run(ctx context.Context, subscribe []packet.Subscription) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(h.life.Context, func() { stop(h.life.cause()) })()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.watch.Stop()
	}()
	err := h.start(ctx, subscribe)
	for err == nil {
		err = h.next(ctx)
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// next sends the next message as soon as there is room for it.
func (h *handover) next(ctx context.Context) error {
	if err := h.waitRoom(ctx); err != nil {
		return err
	}
	p, wasAccepted, err := h.session.Next(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errLocal, err)
	}
	//crash:message-taken
	return h.forward(p, wasAccepted)
}

// start sends the head of the queue and then subscribes.
func (h *handover) start(ctx context.Context, subs []packet.Subscription) error {
	if len(subs) == 0 {
		h.subscribed()
		return nil
	}
	const away = 1 << 15 // half the circle of identifiers from the head of the queue
	id := uint16(away)
	headCtx, stop := context.WithTimeout(ctx, headDelay)
	defer stop()
	switch p, wasAccepted, err := h.session.Next(headCtx); {
	case err == nil:
		if id = p.ID + away; id == 0 {
			id = 1
		}
		if err := h.forward(p, wasAccepted); err != nil {
			return err
		}
	case headCtx.Err() == nil:
		return fmt.Errorf("%w: %w", errLocal, err)
	}
	ackCtx, stop := context.WithTimeoutCause(ctx, h.timeout, errSilent)
	defer stop()
	ack, err := h.link.subscribe(ackCtx, packet.Subscribe{ID: id, Filters: subs})
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	h.subscribed()
	for i, code := range ack.Reasons {
		if code.Failed() {
			h.log.Warn("the cloud refuses a subscription: check its access rules", "filter", subs[i].Filter)
		} else if q := packet.QoS(code); q < subs[i].QoS {
			h.log.Warn("the cloud grants a subscription at a lower QoS", "filter", subs[i].Filter, "asked", subs[i].QoS, "granted", q)
		}
	}
	return nil
}

// waitRoom waits until one more message may be in flight.
func (h *handover) waitRoom(ctx context.Context) error {
	for {
		h.mu.Lock()
		full := len(h.out) >= h.limit
		h.mu.Unlock()
		if !full {
			return context.Cause(ctx)
		}
		select {
		case <-h.room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// forward sends one message of the session to the cloud. An error is one of the connection.
func (h *handover) forward(p packet.Publish, wasAccepted bool) error {
	if wasAccepted {
		if h.lost { // the cloud had it, and has forgotten the identifier
			h.session.Done(p.ID)
			return nil
		}
		h.begin(&delivery{stage: released, qos: 2, id: p.ID, at: time.Now()})
		h.link.answer(packet.Ack{Type: packet.PUBREL, ID: p.ID})
		return nil
	}
	remote, most, ok := h.rules.out(p.Topic)
	if !ok {
		h.drops.add("no outgoing rule maps the topic any more", p.Topic)
		if p.QoS > 0 {
			h.session.Done(p.ID)
		}
		return nil
	}
	q := min(p.QoS, most)
	if q > 0 {
		h.begin(&delivery{stage: sent, qos: q, id: p.ID, topic: remote, size: len(p.Payload), at: time.Now()})
	}
	err := h.link.send(packet.Publish{Dup: p.Dup && q > 0, QoS: q, Retain: p.Retain, Topic: remote, ID: p.ID, Payload: p.Payload})
	//crash:message-sent
	if err == nil && q == 0 && p.QoS > 0 {
		h.session.Done(p.ID)
	}
	return err
}

// begin notes a delivery before its packet leaves.
func (h *handover) begin(d *delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.out[d.id] = d
	h.line = append(h.line, d)
	if h.awaiting++; h.awaiting == 1 {
		h.watch.Reset(h.timeout)
	}
}

// acknowledged takes a PUBACK, PUBREC, PUBREL or PUBCOMP of the cloud.
func (h *handover) acknowledged(a packet.Ack) error {
	switch a.Type {
	case packet.PUBREL:
		return h.release(a.ID)
	case packet.PUBREC:
		return h.accept(a.ID)
	case packet.PUBACK:
		return h.finish(a, 1, sent)
	default:
		return h.finish(a, 2, released)
	}
}

// accept takes a PUBREC: it becomes durable, then PUBREL leaves. A PUBREC for a message that
// is past that point, or that nobody knows, is answered at once.
func (h *handover) accept(id uint16) error {
	h.mu.Lock()
	d, was := h.out[id], finished
	if d != nil {
		was = d.stage
	}
	if was == sent && d.qos == 2 {
		h.advance(d, accepting)
	}
	h.mu.Unlock()
	switch {
	case d != nil && d.qos != 2:
		return unexpected(packet.PUBREC, id)
	case was == sent:
		//crash:pubrec-came
		h.session.Accepted(id, func(err error) { h.accepted(d, err) })
	case was != accepting:
		h.link.answer(packet.Ack{Type: packet.PUBREL, ID: id})
	}
	return nil
}

// accepted is called when the PUBREC of a delivery is durable, or never will be.
func (h *handover) accepted(d *delivery, err error) {
	if err != nil {
		h.life.end(fmt.Errorf("%w: %w", errLocal, err))
		return
	}
	h.mu.Lock()
	h.advance(d, released)
	h.mu.Unlock()
	//crash:before-pubrel
	h.link.answer(packet.Ack{Type: packet.PUBREL, ID: d.id})
}

// finish takes the last acknowledgement of a delivery. One that nobody waits for is ignored.
func (h *handover) finish(a packet.Ack, q packet.QoS, from stage) error {
	h.mu.Lock()
	d := h.out[a.ID]
	known := d != nil && d.qos == q && d.stage == from
	if known {
		h.advance(d, finished)
	}
	h.mu.Unlock()
	if d != nil && !known {
		return unexpected(a.Type, a.ID)
	}
	if known {
		//crash:finished
		h.session.Done(a.ID)
	}
	return nil
}

// advance moves a delivery to a stage. Only what happens to the head of the line gives the cloud
// more time: one message that is never acknowledged must not stay so behind others that
// are. h.mu is held.
func (h *handover) advance(d *delivery, to stage) {
	if d.stage == sent || d.stage == released {
		h.awaiting-- // an acknowledgement has come
		h.acked++
	}
	if to == released {
		h.awaiting++
	}
	d.stage = to
	switch {
	case h.awaiting == 0 || h.life.Err() != nil:
		h.watch.Stop()
	case h.line[0] == d:
		h.watch.Reset(h.timeout)
	}
	if to != finished {
		return
	}
	delete(h.out, d.id)
	for len(h.line) > 0 && h.line[0].stage == finished {
		h.line = h.line[1:]
	}
	h.limit = min(2*h.limit, h.window)
	select {
	case h.room <- struct{}{}:
	default:
	}
}

// useful reports whether the cloud has acknowledged anything on this connection.
func (h *handover) useful() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.acked > 0
}

// head returns the oldest message that waits for its first acknowledgement.
func (h *handover) head() (d delivery, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.line {
		if d.stage == sent {
			return *d, true
		}
	}
	return delivery{}, false
}

func unexpected(t packet.Type, id uint16) error {
	return fmt.Errorf("%w: %s for packet identifier %d, which is not expected now", errProtocol, t, id)
}
