package broker

import (
	"context"
	"fmt"
	"sync"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// A mailbox is the peer that the session of a client in the process delivers to.
type mailbox struct {
	stats *Stats
	ready signal // told when something waits

	mu      sync.Mutex
	opened  bool
	waiting []item
	stalled bool  // the session found no room
	ended   error // why there will be no more
}

// An item is one delivery.
type item struct {
	p        packet.Publish
	released bool             // p has only the QoS and ID of a message whose PUBREL is due
	m        *session.Message // that p is, if it is from the queue
}

// mailboxSize is how many deliveries wait to be taken before QoS 0 is dropped and the rest stays
// in the session's queue.
const mailboxSize = 1000

// open lets deliveries in.
func (m *mailbox) open() {
	m.mu.Lock()
	m.opened = true
	m.mu.Unlock()
}

// next returns the next delivery, waiting for one if need be. drained tells that the session may
// deliver again.
func (m *mailbox) next(ctx context.Context) (i item, drained bool, err error) {
	for {
		if i, drained, ok, err := m.poll(); ok || err != nil {
			return i, drained, err
		}
		select {
		case <-m.ready:
		case <-ctx.Done():
			return item{}, false, ctx.Err()
		}
	}
}

// poll is next, without waiting.
func (m *mailbox) poll() (i item, drained, ok bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.waiting) == 0 {
		return item{}, false, false, m.ended
	}
	i = m.waiting[0]
	m.waiting[0] = item{}
	m.waiting = m.waiting[1:]
	if len(m.waiting) == 0 {
		m.waiting = nil
	} else {
		m.ready.give()
	}
	drained = m.stalled && len(m.waiting) < mailboxSize/2
	m.stalled = m.stalled && !drained
	return i, drained, true, nil
}

// end lets nothing more in. What waits can still be taken.
func (m *mailbox) end(why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended == nil {
		m.ended = why
	}
	m.ready.give()
}

func (m *mailbox) put(i item) {
	m.mu.Lock()
	m.waiting = append(m.waiting, i)
	m.ready.give()
	m.mu.Unlock()
	m.stats.Sent.Add(1)
	m.stats.PayloadSent.Add(int64(len(i.p.Payload)))
}

func (m *mailbox) offer(r *routing, h *hit) bool {
	if !m.room() {
		return false
	}
	expiry := uint32(0)
	if x := r.p.Properties; x != nil {
		expiry = x.MessageExpiry
	}
	p := outgoing(r.p, expiry, h.kept(), nil)
	p.Payload, p.From = r.message().Publish.Payload, r.publisher()
	p.Dup, p.QoS, p.ID, p.Retain = false, 0, 0, h.retain
	m.put(item{p: p})
	return true
}

func (m *mailbox) deliver(e *session.Entry, expiry uint32, dup bool, _ *round) bool {
	p := outgoing(&e.Message.Publish, expiry, e.SubscriptionIDs, nil)
	p.ID, p.QoS, p.Retain, p.Dup = session.PacketID(e.Position), e.QoS, e.Retain, dup
	m.put(item{p: p, m: e.Message})
	return true
}

func (m *mailbox) pubrel(id uint16) {
	m.put(item{p: packet.Publish{ID: id, QoS: 2}, released: true})
}

func (m *mailbox) room() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	full := len(m.waiting) >= mailboxSize
	m.stalled = m.stalled || full
	return m.opened && m.ended == nil && !full
}

func (m *mailbox) kick(reason packet.ReasonCode) (busy <-chan struct{}) {
	m.end(fmt.Errorf("disconnected: %s", reason))
	return nil
}
