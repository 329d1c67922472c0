package bridge

import (
	"context"
	"fmt"
	"sync"

	"gateway/broker/packet"
)

// maxReceipts is how many incoming packets may wait for the local commit at a time. When it is
// reached, reading from the cloud pauses.
const maxReceipts = 256

// receipts are the answers that the cloud waits for. They leave in the order in which the
// packets came [MQTT-4.6.0-2], [MQTT-4.6.0-3], whatever order their commits end in.
type receipts struct {
	slots chan struct{} // one element per receipt in line, at most maxReceipts
	mu    sync.Mutex
	line  []*receipt
}

type receipt struct {
	answer packet.Ack
	ready  bool
}

// begin puts an answer in line. It waits while the line is full.
func (r *receipts) begin(ctx context.Context, answer packet.Ack) (*receipt, error) {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	one := &receipt{answer: answer}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.line = append(r.line, one)
	return one, nil
}

// finish lets an answer leave, as soon as all before it have left. The lock is held while they
// leave, or two goroutines would mix their order; send never waits.
func (r *receipts) finish(one *receipt, send func(packet.Ack)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one.ready = true
	for len(r.line) > 0 && r.line[0].ready {
		send(r.line[0].answer)
		r.line = r.line[1:]
		<-r.slots
	}
}

// publish takes a PUBLISH of the cloud. A message that no rule maps is acknowledged and dropped:
// a rule may have gone while the cloud kept the subscription.
func (h *handover) publish(p packet.Publish) error {
	remote := p.Topic
	local, ok := h.rules.in(remote)
	if !ok {
		h.drop("no incoming rule maps the topic", remote)
	}
	p.Topic = local
	if p.QoS == 0 {
		if ok {
			h.session.Publish(p, nil)
		}
		return nil
	}
	answer := packet.Ack{Type: packet.PUBACK, ID: p.ID}
	if p.QoS == 2 {
		answer.Type = packet.PUBREC
	}
	r, err := h.receipts.begin(h.life, answer)
	if err != nil {
		return err
	}
	if !ok {
		h.receipts.finish(r, h.link.answer)
		return nil
	}
	h.session.Publish(p, func(code packet.ReasonCode) {
		if code.Failed() && !forGood(code) {
			h.life.end(fmt.Errorf("%w: the broker cannot take %q now: %s", errLocal, local, code))
			return
		}
		if code.Failed() {
			h.drop("the local broker refuses the message: "+code.String(), remote)
		}
		h.receipts.finish(r, h.link.answer)
	})
	return nil
}

// release takes a PUBREL of the cloud. An identifier that is not known has been released
// before: the cloud is told so once more [MQTT-4.3.3-11].
func (h *handover) release(id uint16) error {
	r, err := h.receipts.begin(h.life, packet.Ack{Type: packet.PUBCOMP, ID: id})
	if err != nil {
		return err
	}
	h.session.Release(id, func(code packet.ReasonCode) {
		if code.Failed() && code != packet.PacketIDNotFound {
			h.life.end(fmt.Errorf("%w: the broker cannot release packet identifier %d: %s", errLocal, id, code))
			return
		}
		h.receipts.finish(r, h.link.answer)
	})
	return nil
}

// forGood reports whether the local broker would refuse the same message every time. Before
// 5.0 the cloud cannot be told; it would send the message again for ever.
func forGood(code packet.ReasonCode) bool {
	switch code {
	case packet.NotAuthorized, packet.TopicNameInvalid, packet.PacketTooLarge,
		packet.PayloadFormatInvalid, packet.RetainNotSupported, packet.QoSNotSupported:
		return true
	}
	return false
}

// drop counts a message that ends here, and reports the first of them.
func (h *handover) drop(why, topic string) {
	if h.dropped.Add(1) == 1 {
		h.log.Warn("message dropped; more of them are only counted", "topic", topic, "why", why)
	}
}
