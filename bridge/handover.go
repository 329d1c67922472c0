package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"gateway/broker/packet"
)

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
	flight // the way up: what has been sent and is not done
	terms  // what the cloud can take

	name       string
	log        *slog.Logger
	pacer      pacer
	subscribed func()         // called when the cloud has the subscriptions
	laying     sync.WaitGroup // the dead letters on their way to the disk
}

func newHandover(c Config, lanes []*lane, l *life, d *drops) *handover {
	h := &handover{
		intake: intake{
			inbox: lanes[strictLane].session, rules: c.Rules, life: l, drops: d, version: c.upstream().version(),
			receipts: receipts{slots: make(chan struct{}, maxReceipts)},
			caution:  new(caution), hall: hall{come: make(chan struct{}, 1)},
		},
		flight: flight{
			lanes: lanes, window: c.Window, limit: c.Window, timeout: c.AckTimeout, end: l.end,
			out: make(map[uint16]*delivery),
		},
		terms: terms{policy: c.LostSession},
		name:  c.Name, log: d.log, pacer: newPacer(c.ReplayRate),
	}
	h.watch = time.AfterFunc(c.AckTimeout, h.late)
	h.watch.Stop() // until something is sent
	return h
}

var (
	errLocal    = errors.New("local session")
	errSilent   = errors.New("the cloud does not acknowledge what it is sent")
	errProtocol = errors.New("the cloud breaks the protocol")
)

// connected begins the exchange.
func (h *handover) connected(l link, w welcome) {
	h.link, h.welcome = l, w
	h.backlog = newBacklog(h.heard, w.sessionPresent, time.Now())
	h.open(w.window)
	if h.lost = !w.sessionPresent; h.lost {
		h.inbox.Forget()
	}
}

// run sends what the lanes hold until the connection or ctx ends. Before that it asks the cloud
// for the subscriptions subs, and to forget the filters gone.
func (h *handover) run(ctx context.Context, subs []packet.Subscription, gone []string) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(h.life.Context, func() { stop(h.life.cause()) })()
	defer h.unwatch()
	err := h.subscribe(ctx, subs, gone)
	if err == nil {
		h.subscribed()
		err = h.drainAll(ctx, stop)
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// drainAll sends from all lanes until one of them fails, or ctx ends.
func (h *handover) drainAll(ctx context.Context, stop context.CancelCauseFunc) error {
	var wait sync.WaitGroup
	for _, l := range h.lanes {
		wait.Go(func() { stop(h.drain(ctx, l)) })
	}
	wait.Wait()
	return context.Cause(ctx)
}

// subscribe gives the cloud the subscriptions of the incoming rules.
func (h *handover) subscribe(ctx context.Context, subs []packet.Subscription, gone []string) error {
	ctx, stop := context.WithTimeoutCause(ctx, h.timeout, errSilent)
	defer stop()
	if len(gone) > 0 {
		if err := h.link.unsubscribe(ctx, packet.Unsubscribe{ID: requestIDs, Filters: gone}); err != nil {
			return fmt.Errorf("unsubscribe: %w", err)
		}
	}
	if h.noWildcard {
		subs = slices.DeleteFunc(slices.Clone(subs), func(s packet.Subscription) bool {
			wild := strings.ContainsAny(s.Filter, "+#")
			if wild {
				h.log.Warn("the cloud has no subscriptions with wildcards: give the rule plain topics", "filter", s.Filter)
			}
			return wild
		})
	}
	if len(subs) == 0 {
		return nil
	}
	ack, err := h.link.subscribe(ctx, packet.Subscribe{ID: requestIDs + 1, Filters: subs})
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	for i, code := range ack.Reasons {
		if code.Failed() {
			h.log.Warn("the cloud refuses a subscription: check its access rules", "filter", subs[i].Filter, "reason", code)
		} else if q := packet.QoS(code); q < subs[i].QoS {
			h.log.Warn("the cloud grants a subscription at a lower QoS", "filter", subs[i].Filter, "asked", subs[i].QoS, "granted", q)
		}
	}
	return nil
}

// acknowledged takes a PUBACK, PUBREC, PUBREL or PUBCOMP of the cloud.
func (h *handover) acknowledged(a packet.Ack) error {
	switch a.Type {
	case packet.PUBREL:
		return h.release(a.ID)
	case packet.PUBREC:
		return h.accept(a)
	case packet.PUBACK:
		return h.finish(a, 1, sent)
	default:
		return h.finish(a, 2, released)
	}
}

// accept takes a PUBREC: it becomes durable, then PUBREL leaves. A PUBREC for a message that
// is past that point, or that nobody knows, is answered at once.
func (h *handover) accept(a packet.Ack) error {
	h.mu.Lock()
	d, was := h.out[a.ID], finished
	if d != nil {
		was = d.stage
	}
	if was == sent && d.qos == 2 {
		h.advance(d, storing)
	}
	h.mu.Unlock()
	switch {
	case d != nil && d.qos != 2:
		return unexpected(packet.PUBREC, a.ID)
	case was == sent && a.Reason.Failed():
		return h.refused(d, a)
	case was == sent:
		//crash:pubrec-came
		d.lane.session.Accepted(d.p.ID, func(err error) { h.accepted(d, err) })
	case was != storing && !a.Reason.Failed():
		h.link.answer(packet.Ack{Type: packet.PUBREL, ID: a.ID})
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
	free := d != nil && d.frees && a.Type == packet.PUBCOMP && d.stage == sent // its identifier is
	refused := known && q == 1 && a.Reason.Failed()
	switch {
	case refused:
		h.advance(d, storing)
	case known:
		h.advance(d, finished)
	}
	h.mu.Unlock()
	switch {
	case d != nil && !known && !free:
		return unexpected(a.Type, a.ID)
	case refused:
		return h.refused(d, a)
	case known:
		//crash:finished
		d.lane.session.Done(d.p.ID)
	}
	return nil
}

// refused takes a PUBACK or PUBREC with a reason code that says no. What the cloud will never
// take is put aside; when it has no room now, the connection ends and the message is sent again
// on the next.
func (h *handover) refused(d *delivery, a packet.Ack) error {
	why := fmt.Sprintf("the cloud refuses it: %s%s", a.Reason, quoted(a.ReasonString))
	if a.Reason == packet.QuotaExceeded || a.Reason == packet.PacketIDInUse {
		return fmt.Errorf("message to %q: %s", d.p.Topic, why)
	}
	h.drops.dead(why, d.p.Topic)
	h.lay(d, letter(h.name, d.p, why))
	return nil
}

func unexpected(t packet.Type, id uint16) error {
	return fmt.Errorf("%w: %s for packet identifier %d, which is not expected now", errProtocol, t, id)
}
