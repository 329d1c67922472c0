package bridge

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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
	//crash:before-receipt
	one.ready = true
	for len(r.line) > 0 && r.line[0].ready {
		send(r.line[0].answer)
		r.line = r.line[1:]
		<-r.slots
	}
}

// An intake takes the cloud's messages down to the local broker.
type intake struct {
	inbox    Inbox
	rules    rules
	life     *life
	link     link
	drops    *drops
	version  packet.Version
	echoes   *echoes // 3.1.1 only, else nil
	receipts receipts
	heard    time.Time // of the cloud, on the connection before; zero: this is the first
	backlog  backlog
	came     int // messages of the cloud on this connection
	caution  *caution
	hall     hall
}

// publish takes a PUBLISH of the cloud. A message that no rule maps is acknowledged and dropped:
// a rule may have gone while the cloud kept the subscription.
func (in *intake) publish(p packet.Publish) error {
	in.came++
	remote := p.Topic
	local, ok := in.rules.in(remote)
	if !ok {
		in.drops.add("no incoming rule maps the topic", remote)
	}
	p.Topic = local
	if in.version >= packet.V5 && ok {
		historical := p.Properties != nil && slices.Contains(p.Properties.User, packet.UserProperty{Name: HistoricalProperty, Value: "1"})
		if p.Properties, ok = crossing(p, historical); ok {
			p.Properties.ResponseTopic = in.rules.answerDown(p.Properties.ResponseTopic)
		} else {
			in.drops.add(circle, remote)
		}
	}
	now := time.Now()
	in.backlog.mark(&p, now)
	if ok && in.backlog.over() && in.echoes.circles(In, "", remote, p.Payload, now) {
		in.drops.circle(remote)
		in.drops.add(roundAndRound, remote)
		ok = false
	}
	if p.QoS == 0 {
		if ok {
			in.inbox.Publish(p, nil)
		}
		return nil
	}
	r, err := in.receipts.begin(in.life, receiptOf(p))
	if err != nil {
		return err
	}
	if !ok {
		in.receipts.finish(r, in.link.answer)
		return nil
	}
	//crash:publish-came
	g := guest{p, remote, r}
	if in.hall.enter(g, in.caution) {
		return nil
	}
	in.inbox.Publish(p, func(code packet.ReasonCode) {
		if code.Failed() && !forGood(code) {
			// What came behind it may have been taken. On the next connection it waits with all behind it.
			in.caution.refused()
			in.life.end(fmt.Errorf("%w: the broker cannot take %q now: %s", errLocal, local, code))
			return
		}
		in.taken(g, code)
	})
	return nil
}

// taken acknowledges a message that the local broker has taken, or would never take.
func (in *intake) taken(g guest, code packet.ReasonCode) {
	if code.Failed() {
		in.drops.add("the local broker refuses the message: "+code.String(), g.remote)
	}
	in.receipts.finish(g.receipt, in.link.answer)
}

// tooLarge acknowledges a message that is not taken, or the cloud would send it for ever.
func (in *intake) tooLarge(p packet.Publish, size int) error {
	in.came++
	in.drops.add(fmt.Sprintf("%d bytes are more than the bridge takes: raise max_packet, or keep such messages from this client", size), p.Topic)
	if p.QoS == 0 {
		return nil
	}
	r, err := in.receipts.begin(in.life, receiptOf(p))
	if err != nil {
		return err
	}
	in.receipts.finish(r, in.link.answer)
	return nil
}

// receiptOf returns the acknowledgement that a message gets first.
func receiptOf(p packet.Publish) packet.Ack {
	if p.QoS == 2 {
		return packet.Ack{Type: packet.PUBREC, ID: p.ID}
	}
	return packet.Ack{Type: packet.PUBACK, ID: p.ID}
}

// release takes a PUBREL of the cloud. An identifier that is not known has been released
// before: the cloud is told so once more [MQTT-4.3.3-11].
func (in *intake) release(id uint16) error {
	r, err := in.receipts.begin(in.life, packet.Ack{Type: packet.PUBCOMP, ID: id})
	if err != nil {
		return err
	}
	//crash:pubrel-came
	in.inbox.Release(id, func(code packet.ReasonCode) {
		if code.Failed() && code != packet.PacketIDNotFound {
			in.life.end(fmt.Errorf("%w: the broker cannot release packet identifier %d: %s", errLocal, id, code))
			return
		}
		in.receipts.finish(r, in.link.answer)
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

// drops count the messages that end at the bridge: no rule maps them, the local broker refuses them
// for good, or the cloud can never take them and they are put aside.
type drops struct {
	log   *slog.Logger
	count atomic.Int64
	aside atomic.Int64 // dead letters
	round atomic.Int64 // those of both that seemed to go round, 3.1.1 only
}

// add counts a message, and reports the first of them.
func (d *drops) add(why, topic string) {
	if d.count.Add(1) == 1 {
		d.log.Warn("message dropped; more of them are only counted", "topic", topic, "why", why)
	}
}

// dead counts a dead letter, and reports the first of them.
func (d *drops) dead(why, topic string) {
	if d.aside.Add(1) == 1 {
		d.log.Warn("a message is put aside as a dead letter; more of them are only counted", "topic", topic, "why", why)
	}
}

// circle counts a message that seems to go round, and reports the first of them.
func (d *drops) circle(topic string) {
	if d.round.Add(1) == 1 {
		d.log.Warn("the same message crosses the bridge again and again, and is stopped: if rules of several gateways carry it in a circle, let the bridges speak version 5.0; if not, raise circle_limit",
			"topic", topic)
	}
}
