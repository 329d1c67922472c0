package session_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"gateway/broker/packet"
	"gateway/broker/session"
)

func queued(position uint64, qos packet.QoS) session.Queued {
	m := &session.Message{Publish: packet.Publish{Topic: "t", Payload: fmt.Append(nil, position), QoS: qos}}
	return session.Queued{Position: position, QoS: qos, Message: m}
}

// sent returns what Next gives now, as "publish 3" or "pubrel 2".
func sent(q *session.Queue) []string {
	var all []string
	for {
		e, ok := q.Next()
		if !ok {
			return all
		}
		verb := "publish"
		if e.Stage == session.Accepted {
			verb = "pubrel"
		} else if q.Again(e) {
			verb = "again"
		}
		all = append(all, fmt.Sprintf("%s %d", verb, e.Position))
	}
}

func want(t *testing.T, got []string, lines ...string) {
	t.Helper()
	if !slices.Equal(got, lines) {
		t.Errorf("got %s, want %s", strings.Join(got, ", "), strings.Join(lines, ", "))
	}
}

func TestPacketID(t *testing.T) {
	for _, tt := range []struct {
		position uint64
		id       uint16
	}{{1, 1}, {2, 2}, {65535, 65535}, {65536, 1}, {65537, 2}, {1 << 40, uint16((1<<40-1)%65535 + 1)}} {
		if got := session.PacketID(tt.position); got != tt.id {
			t.Errorf("PacketID(%d) = %d, want %d", tt.position, got, tt.id)
		}
	}
}

// [MQTT-4.6.0-1], [MQTT-4.4.0-1], [MQTT-4.3.3-6], [MQTT-3.3.4-9]
func TestState(t *testing.T) {
	s := session.State{Client: "c", Durable: true}
	s.Queue.Resume(3)
	for p := range uint64(5) {
		s.Queue.Committed(queued(p+1, packet.QoS(1+p%2)), 100)
	}
	want(t, sent(&s.Queue), "publish 1", "publish 2", "publish 3")

	step, err := s.Pubrec(packet.Ack{Type: packet.PUBREC, ID: 2})
	if a, ok := step.Durable.(*session.Advanced); err != nil || !ok || a.Stage != session.Accepted || a.Position != 2 || !step.Wait || step.Reply.Type != packet.PUBREL {
		t.Errorf("PUBREC 2: %+v, %v", step, err)
	}
	want(t, sent(&s.Queue))
	if step, err := s.Pubrec(packet.Ack{Type: packet.PUBREC, ID: 2}); err != nil || step.Durable != nil || !step.Wait || step.Reply.Type != packet.PUBREL {
		t.Errorf("PUBREC 2 again: %+v, %v", step, err)
	}
	if step, err := s.Puback(packet.Ack{Type: packet.PUBACK, ID: 3}); err != nil || !step.Wake {
		t.Errorf("PUBACK 3: %+v, %v", step, err)
	}
	want(t, sent(&s.Queue)) // the oldest is not acknowledged

	s.Queue.Resume(3)
	want(t, sent(&s.Queue), "again 1", "pubrel 2")
	if step, err := s.Puback(packet.Ack{Type: packet.PUBACK, ID: 1}); err != nil || !step.Wake {
		t.Errorf("PUBACK 1: %+v, %v", step, err)
	}
	want(t, sent(&s.Queue), "publish 4")
	if step, err := s.Pubcomp(packet.Ack{Type: packet.PUBCOMP, ID: 2}); err != nil || step.Durable.(*session.Advanced).Stage != session.Done {
		t.Errorf("PUBCOMP 2: %+v, %v", step, err)
	}
	want(t, sent(&s.Queue), "publish 5")
}

// What an acknowledgement of the wrong kind or for nobody leads to.
func TestWrongAcknowledgements(t *testing.T) {
	s := session.State{Client: "c", Durable: true}
	s.Queue.Resume(10)
	s.Queue.Committed(queued(1, 1), 10)
	s.Queue.Committed(queued(2, 2), 10)
	sent(&s.Queue)
	for _, tt := range []struct {
		clause string
		ack    packet.Ack
		fails  bool
		reply  packet.ReasonCode
	}{
		{"MQTT-4.3.3-3", packet.Ack{Type: packet.PUBACK, ID: 2}, true, 0},
		{"MQTT-4.3.2-3", packet.Ack{Type: packet.PUBREC, ID: 1}, true, 0},
		{"MQTT-4.3.3-5", packet.Ack{Type: packet.PUBCOMP, ID: 2}, true, 0},
		{"unknown PUBACK", packet.Ack{Type: packet.PUBACK, ID: 9}, false, 0},
		{"unknown PUBREC", packet.Ack{Type: packet.PUBREC, ID: 9}, false, packet.PacketIDNotFound},
		{"unknown PUBCOMP", packet.Ack{Type: packet.PUBCOMP, ID: 9}, false, 0},
		{"PUBREC failure for nobody", packet.Ack{Type: packet.PUBREC, ID: 9, Reason: packet.NotAuthorized}, false, 0},
	} {
		var step session.Step
		var err error
		switch tt.ack.Type {
		case packet.PUBACK:
			step, err = s.Puback(tt.ack)
		case packet.PUBREC:
			step, err = s.Pubrec(tt.ack)
		default:
			step, err = s.Pubcomp(tt.ack)
		}
		if (err != nil) != tt.fails || step.Reply.Reason != tt.reply || step.Durable != nil {
			t.Errorf("[%s] %+v, %v", tt.clause, step, err)
		}
	}
	// A failure ends a QoS 2 delivery [MQTT-4.3.3-4].
	step, err := s.Pubrec(packet.Ack{Type: packet.PUBREC, ID: 2, Reason: packet.NotAuthorized})
	if err != nil || step.Reply.Type != 0 || step.Durable.(*session.Advanced).Stage != session.Done {
		t.Errorf("PUBREC with a failure: %+v, %v", step, err)
	}
}

// What the receiver may have the identifier of another message for is freed first, until each identifier
// was used once. The answer to that is none to the message.
func TestStrange(t *testing.T) {
	s := session.State{Client: "c", Durable: true, Queue: session.RestoredQueue(&session.Summary{Head: 1, Next: 1, Strange: 3}, 0)}
	s.Queue.Resume(10)
	for position, qos := range []packet.QoS{2, 1, 2} {
		s.Queue.Committed(queued(uint64(position+1), qos), 10)
	}
	for i, frees := range []bool{true, false, false} {
		if e, ok := s.Queue.Next(); !ok || e.Frees != frees {
			t.Errorf("message %d: %+v, want %t", i+1, e, frees)
		}
	}
	if step, err := s.Pubcomp(packet.Ack{Type: packet.PUBCOMP, ID: 1}); err != nil || step.Durable != nil || step.Reply.Type != 0 {
		t.Errorf("PUBCOMP 1 before PUBREC: %+v, %v", step, err)
	}
	if _, err := s.Pubcomp(packet.Ack{Type: packet.PUBCOMP, ID: 3}); err == nil {
		t.Error("PUBCOMP 3 before PUBREC is no error [MQTT-4.3.3-5]")
	}
	if _, err := s.Pubrec(packet.Ack{Type: packet.PUBREC, ID: 1}); err != nil {
		t.Error(err)
	}
	if step, err := s.Pubcomp(packet.Ack{Type: packet.PUBCOMP, ID: 1}); err != nil || step.Durable.(*session.Advanced).Stage != session.Done {
		t.Errorf("PUBCOMP 1: %+v, %v", step, err)
	}
}

func TestInbox(t *testing.T) {
	s := session.State{Client: "c", Durable: true, Inbox: session.RestoredInbox(&session.Summary{Received: []uint16{7}})}
	if s.Inbox.Receive(7) || !s.Inbox.Receive(8) || s.Inbox.Receive(8) || s.Inbox.Len() != 2 {
		t.Errorf("ids: %v", s.Inbox.IDs())
	}
	step := s.Pubrel(packet.Ack{Type: packet.PUBREL, ID: 7})
	if r, ok := step.Durable.(*session.Released); !ok || r.ID != 7 || !step.Wait || step.Reply.Reason != packet.Success {
		t.Errorf("PUBREL 7: %+v", step)
	}
	step = s.Pubrel(packet.Ack{Type: packet.PUBREL, ID: 7})
	if step.Durable != nil || !step.Wait || step.Reply.Reason != packet.PacketIDNotFound {
		t.Errorf("PUBREL 7 again: %+v", step)
	}
}

// Whatever happens in whatever order, a queue sends every message at least once in order of
// position, a QoS 2 message never as PUBLISH after its PUBREC, and forgets none before it is Done.
func TestQueueModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.SampledFrom([]uint64{1, 65500, 131060}).Draw(t, "base")
		window := rapid.Uint16Range(1, 8).Draw(t, "window")
		s := session.State{Client: "c", Durable: true, Queue: session.RestoredQueue(&session.Summary{Head: base, Next: base}, 0)}
		s.Queue.Resume(window)
		var stored []session.Queued
		stage := map[uint64]session.Stage{}
		inflight := map[uint64]bool{}
		told := 0 // of stored: the queue is told of each after it can be read
		last := base - 1
		finish := func(p uint64) { stage[p] = session.Done; delete(inflight, p) }
		t.Repeat(map[string]func(*rapid.T){
			"commit": func(t *rapid.T) {
				stored = append(stored, queued(base+uint64(len(stored)), rapid.SampledFrom([]packet.QoS{1, 2}).Draw(t, "qos")))
			},
			"tell": func(t *rapid.T) {
				if told == len(stored) {
					t.Skip("nothing to tell")
				}
				s.Queue.Committed(stored[told], rapid.IntRange(0, 4).Draw(t, "room"))
				told++
			},
			"fill": func(t *rapid.T) {
				from, limit, ok := s.Queue.Missing()
				if !ok {
					t.Skip("nothing is missing")
				}
				n := rapid.IntRange(1, 3).Draw(t, "n")
				rest := stored[from-base:]
				if len(rest) > n {
					rest, limit = rest[:n], rest[n-1].Position+1
				}
				s.Queue.Fill(from, rest, limit)
			},
			"send": func(t *rapid.T) {
				e, ok := s.Queue.Next()
				if !ok {
					t.Skip("nothing to send")
				}
				if e.Position <= last {
					t.Fatalf("sent %d after %d", e.Position, last)
				}
				for p := last + 1; p < e.Position; p++ {
					if stage[p] != session.Done {
						t.Fatalf("sent %d, left out %d", e.Position, p)
					}
				}
				if e.Stage != stage[e.Position] {
					t.Fatalf("%d is sent as stage %d, want %d", e.Position, e.Stage, stage[e.Position])
				}
				last = e.Position
				inflight[e.Position] = true
				if len(inflight) > int(window) {
					t.Fatalf("%d in flight, the window is %d", len(inflight), window)
				}
			},
			"acknowledge": func(t *rapid.T) {
				if len(inflight) == 0 {
					t.Skip("nothing in flight")
				}
				var all []uint64
				for p := range inflight {
					all = append(all, p)
				}
				slices.Sort(all)
				p := rapid.SampledFrom(all).Draw(t, "position")
				a := packet.Ack{ID: session.PacketID(p)}
				var err error
				switch {
				case stored[p-base].QoS == 1:
					_, err = s.Puback(a)
					finish(p)
				case stage[p] == session.Pending:
					_, err = s.Pubrec(a)
					stage[p] = session.Accepted
				default:
					_, err = s.Pubcomp(a)
					finish(p)
				}
				if err != nil {
					t.Fatal(err)
				}
			},
			"reconnect": func(t *rapid.T) {
				if rapid.Bool().Draw(t, "away") {
					s.Queue.Unload()
				}
				s.Queue.Resume(window)
				clear(inflight)
				last = base - 1
			},
			"": func(t *rapid.T) {
				open, pending := 0, 0
				for i := range stored[:told] {
					switch stage[base+uint64(i)] {
					case session.Pending:
						pending++
						fallthrough
					case session.Accepted:
						open++
					}
				}
				if got := s.Queue.Undelivered(); got != pending {
					t.Fatalf("Undelivered = %d, want %d", got, pending)
				}
				if s.Queue.Len() < open {
					t.Fatalf("Len = %d with %d messages open", s.Queue.Len(), open)
				}
			},
		})
	})
}

// What was acknowledged before a restart is not undelivered after it, though it is in the store only.
func TestUndeliveredAfterRestart(t *testing.T) {
	q := session.RestoredQueue(&session.Summary{Head: 5, Next: 10, Stages: map[uint64]session.Stage{5: session.Accepted, 7: session.Done}}, 0)
	if n := q.Undelivered(); n != 3 {
		t.Errorf("%d are undelivered, want 6, 8 and 9", n)
	}
	q.Resume(10)
	q.Fill(5, []session.Queued{queued(5, 2), queued(6, 1)}, 7)
	if n := q.Undelivered(); n != 3 {
		t.Errorf("%d are undelivered when half of it is read, want 6, 8 and 9", n)
	}
}
