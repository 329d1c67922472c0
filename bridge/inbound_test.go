package bridge

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"gateway/broker/packet"
)

// A verdict is a session that answers everything in the same way, at once.
type verdict struct {
	Session
	code      packet.ReasonCode
	err       error
	published []packet.Publish
}

func (v *verdict) Publish(p packet.Publish, done func(packet.ReasonCode)) {
	v.published = append(v.published, p)
	if done != nil {
		done(v.code)
	}
}
func (v *verdict) Release(_ uint16, done func(packet.ReasonCode)) { done(v.code) }
func (v *verdict) Accepted(_ uint16, done func(error))            { done(v.err) }
func (v *verdict) Frees(uint16) bool                              { return false }

// oneLane is a bridge's strict lane alone.
func oneLane(s Session) []*lane {
	return []*lane{{session: s, share: 10, room: make(chan struct{}, 1)}}
}

func handoverTo(t *testing.T, s Session) (*handover, *recorder) {
	l := newLife()
	t.Cleanup(func() { l.end(errClosed) })
	h := newHandover(Config{Rules: everything, Window: 10, AckTimeout: 1 << 40}, oneLane(s), l, &drops{log: slog.New(slog.DiscardHandler)})
	r := &recorder{}
	h.connected(r, welcome{sessionPresent: true, qos: 2})
	return h, r
}

// What the local broker refuses for good is acknowledged, or the cloud would send it for ever;
// it is counted. What it cannot take now ends the connection unacknowledged.
func TestLocalVerdicts(t *testing.T) {
	for _, tt := range []struct {
		code     packet.ReasonCode
		answered bool
		dropped  int64
	}{
		{packet.Success, true, 0},
		{packet.NoMatchingSubscribers, true, 0},
		{packet.NotAuthorized, true, 1},
		{packet.PacketTooLarge, true, 1},
		{packet.QuotaExceeded, false, 0},
		{packet.UnspecifiedError, false, 0},
	} {
		for q, want := range map[packet.QoS]packet.Type{1: packet.PUBACK, 2: packet.PUBREC} {
			h, r := handoverTo(t, &verdict{code: tt.code})
			if err := h.publish(packet.Publish{Topic: "down/a", QoS: q, ID: 7}); err != nil {
				t.Fatal(err)
			}
			if answered := slices.ContainsFunc(r.answers, func(a packet.Ack) bool { return a.Type == want && a.ID == 7 }); answered != tt.answered {
				t.Errorf("%s at QoS %d: answers %v", tt.code, q, r.answers)
			}
			if cause := h.life.cause(); (cause == nil) != tt.answered || cause != nil && !errors.Is(cause, errLocal) {
				t.Errorf("%s at QoS %d: the connection ended with %v", tt.code, q, cause)
			}
			if n := h.drops.count.Load(); n != tt.dropped {
				t.Errorf("%s at QoS %d: %d dropped, want %d", tt.code, q, n, tt.dropped)
			}
		}
	}
}

// PUBREL is answered when the identifier is forgotten, also when it was before [MQTT-4.3.3-11].
func TestReleaseVerdicts(t *testing.T) {
	for code, answered := range map[packet.ReasonCode]bool{
		packet.Success: true, packet.PacketIDNotFound: true, packet.UnspecifiedError: false,
	} {
		h, r := handoverTo(t, &verdict{code: code})
		if err := h.acknowledged(packet.Ack{Type: packet.PUBREL, ID: 7}); err != nil {
			t.Fatal(err)
		}
		if (len(r.answers) == 1) != answered || answered && r.answers[0].Type != packet.PUBCOMP {
			t.Errorf("%s: answers %v", code, r.answers)
		}
		if (h.life.cause() == nil) != answered {
			t.Errorf("%s: the connection ended with %v", code, h.life.cause())
		}
	}
}

// A message outside the rules is acknowledged, counted, and goes nowhere.
func TestOutsideTheRules(t *testing.T) {
	s := &verdict{}
	h, r := handoverTo(t, s)
	for q := range packet.QoS(3) {
		if err := h.publish(packet.Publish{Topic: "elsewhere", QoS: q, ID: uint16(q)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.published) != 0 || len(r.answers) != 2 || h.drops.count.Load() != 3 {
		t.Errorf("published %v, answers %v, %d dropped", s.published, r.answers, h.drops.count.Load())
	}
}

// A PUBREC that cannot be made durable ends the connection; PUBREL does not leave.
func TestAcceptedFails(t *testing.T) {
	h, r := handoverTo(t, &verdict{err: errors.New("no space left on device")})
	if err := h.forward(t.Context(), h.lanes[0].delivery(packet.Publish{Topic: "up/a", QoS: 2, ID: 1}), false); err != nil {
		t.Fatal(err)
	}
	if err := h.acknowledged(packet.Ack{Type: packet.PUBREC, ID: 1}); err != nil {
		t.Fatal(err)
	}
	if cause := h.life.cause(); cause == nil || !strings.Contains(cause.Error(), "no space left") || len(r.answers) != 0 {
		t.Errorf("the connection ended with %v, answers %v", cause, r.answers)
	}
}

// The QoS of a rule is a cap; what it caps to 0 is done when it is sent.
func TestCap(t *testing.T) {
	l := newLedger(t, 0)
	l.add(message("up/a", 2, 0), message("up/b", 2, 1), message("gone", 1, 2))
	s, err := l.open(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	h, r := handoverTo(t, s)
	h.rules = rules{{Direction: Out, Filter: "up/a", QoS: 0}, {Direction: Out, Filter: "up/+", QoS: 1}}
	for range 3 {
		if err := h.next(t.Context(), h.lanes[0]); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.sent) != 2 || r.sent[0].QoS != 0 || r.sent[1].QoS != 1 || h.drops.count.Load() != 1 {
		t.Errorf("sent %+v, %d dropped", r.sent, h.drops.count.Load())
	}
	if err := h.acknowledged(packet.Ack{Type: packet.PUBACK, ID: 2}); err != nil {
		t.Error(err)
	}
	eventually(t, "an empty queue", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return !slices.ContainsFunc(l.queue, func(e *entry) bool { return e.stage != finished })
	})
}
