package broker_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
	"gateway/broker/session"
)

// joined connects a client and subscribes.
func (s *site) joined(c packet.Connect, filters ...packet.Subscription) *wire {
	s.t.Helper()
	w := s.connect(packet.V5, c)
	w.send(subscribe(1, filters...))
	w.expect("SUBACK 1…")
	return w
}

// post publishes messages with payloads m0, m1, … and waits until they are taken.
func (s *site) post(topic string, qos packet.QoS, n int) {
	s.t.Helper()
	pub := s.connect(packet.V5, clean("pub"))
	for i := range n {
		pub.send(publish(topic, fmt.Sprint("m", i), qos, uint16(i+1)))
		if qos == 2 {
			pub.expect(fmt.Sprintf("PUBREC %d", i+1))
			pub.send(ack(packet.PUBREL, uint16(i+1)))
			pub.expect(fmt.Sprintf("PUBCOMP %d", i+1))
		} else {
			pub.expect(fmt.Sprintf("PUBACK %d", i+1))
		}
	}
	pub.leave()
}

// takes expects the messages m0, m1, … once each and in order, and completes their delivery.
func (w *wire) takes(topic string, qos packet.QoS, n int) {
	w.t.Helper()
	released := 0
	for i := 0; i < n || qos == 2 && released < n; {
		want, got := fmt.Sprintf("PUBLISH %s=m%d q%d id", topic, i, qos), w.read()
		var id uint16
		if _, err := fmt.Sscanf(got, want+"%d", &id); err == nil && got == fmt.Sprint(want, id) {
			i++
			w.send(ack(map[packet.QoS]packet.Type{1: packet.PUBACK, 2: packet.PUBREC}[qos], id))
		} else if _, err := fmt.Sscanf(got, "PUBREL %d", &id); err == nil {
			released++
			w.send(ack(packet.PUBCOMP, id))
		} else {
			w.t.Fatalf("got %q, want %q", got, want)
		}
	}
	w.silent()
}

// endings are the ways in which a session ends with messages that its client has not acknowledged. The wire
// is the client's; nil: it is away.
var endings = []struct {
	name    string
	connect packet.Connect
	end     func(s *site, w *wire)
}{
	{"with its connection", clean("x"), func(s *site, w *wire) { w.send(&packet.Disconnect{}) }},
	{"with a DISCONNECT", kept("x"), func(s *site, w *wire) {
		w.send(&packet.Disconnect{HasSessionExpiry: true})
	}},
	{"with a clean start", kept("x"), func(s *site, w *wire) { s.connect(packet.V5, clean("x")) }},
	{"with a clean start after a while", kept("x"), func(s *site, w *wire) {
		w.leave()
		s.connect(packet.V5, clean("x"))
	}},
	{"when it expires", kept("x"), func(s *site, w *wire) {
		w.send(&packet.Disconnect{HasSessionExpiry: true, SessionExpiry: 1})
	}},
}

func eachEnding(t *testing.T, f func(t *testing.T, s *site, connect packet.Connect, end func(*wire))) {
	for _, e := range endings {
		t.Run(e.name, func(t *testing.T) {
			s := start(t, nil, broker.Limits{})
			f(t, s, e.connect, func(w *wire) { e.end(s, w) })
		})
	}
}

// A message goes on to the group by which it came, also if the member was in another one that it matches.
func TestHandOnByGroup(t *testing.T) {
	eachEnding(t, func(t *testing.T, s *site, connect packet.Connect, end func(*wire)) {
		x := s.joined(connect, filter("$share/g/t", 1), filter("$share/h/t", 1))
		s.post("t", 1, 2)
		x.expect("PUBLISH t=m0…", "PUBLISH t=m0…", "PUBLISH t=m1…", "PUBLISH t=m1…")
		y, z := s.joined(clean("y"), filter("$share/g/t", 1)), s.joined(kept("z"), filter("$share/h/t", 1))
		end(x)
		y.takes("t", 1, 2)
		z.takes("t", 1, 2)
	})
}

// What came by an ordinary subscription is dropped with the session, what came by the shared one beside it
// is not.
func TestHandOnBesideOrdinary(t *testing.T) {
	eachEnding(t, func(t *testing.T, s *site, connect packet.Connect, end func(*wire)) {
		x := s.joined(connect, filter("$share/g/t", 1), filter("t", 1))
		s.post("t", 1, 2)
		x.expect("PUBLISH t=m0…", "PUBLISH t=m0…", "PUBLISH t=m1…", "PUBLISH t=m1…")
		y := s.joined(kept("y"), filter("$share/g/+", 1), filter("$share/g/t", 1))
		end(x)
		y.takes("t", 1, 2)
		eventually(s.t, "two messages are dropped", func() bool { return s.server.Stats().Dropped.Load() == 2 })
	})
}

// Who has unsubscribed still gets what was queued (5.0, 3.10.4), and what it has not acknowledged when its
// session ends goes to a member.
func TestHandOnAfterUnsubscribe(t *testing.T) {
	eachEnding(t, func(t *testing.T, s *site, connect packet.Connect, end func(*wire)) {
		x := s.joined(connect, filter("$share/g/t", 1))
		s.post("t", 1, 2)
		x.expect("PUBLISH t=m0…", "PUBLISH t=m1…")
		x.send(&packet.Unsubscribe{ID: 2, Filters: []string{"$share/g/t"}})
		x.expect("UNSUBACK 2…")
		y := s.joined(clean("y"), filter("$share/g/t", 1))
		y.silent()
		end(x)
		y.takes("t", 1, 2)
		if n := s.server.Stats().Dropped.Load(); n != 0 {
			t.Errorf("%d messages are dropped", n)
		}
	})
}

// What the last member leaves is nobody's, and counted.
func TestHandOnToNobody(t *testing.T) {
	eachEnding(t, func(t *testing.T, s *site, connect packet.Connect, end func(*wire)) {
		x := s.joined(connect, filter("$share/g/t", 2))
		s.post("t", 1, 2)
		x.expect("PUBLISH t=m0…", "PUBLISH t=m1…")
		end(x)
		eventually(s.t, "two messages are dropped", func() bool { return s.server.Stats().Dropped.Load() == 2 })
	})
}

// At QoS 2 what was sent to a member stays with it, also if it is gone [MQTT-4.8.2-5]; what waited for
// room in its window goes on.
func TestHandOnAtQoS2(t *testing.T) {
	eachEnding(t, func(t *testing.T, s *site, connect packet.Connect, end func(*wire)) {
		connect.Properties.ReceiveMaximum = 2
		x := s.joined(connect, filter("$share/g/t", 2))
		s.post("t", 2, 4)
		x.expect("PUBLISH t=m0 q2 id1", "PUBLISH t=m1 q2 id2")
		y := s.joined(kept("y"), filter("$share/g/t", 2))
		end(x)
		y.expect("PUBLISH t=m2 q2 id1", "PUBLISH t=m3 q2 id2")
		y.silent()
		eventually(s.t, "two messages are dropped", func() bool { return s.server.Stats().Dropped.Load() == 2 })
	})
}

// A backlog that is only in the store goes on as a whole, in order, also after a restart of the gateway. At
// QoS 2 the store knows that it was not sent, but for what was before the client went away.
func TestHandOnFromStore(t *testing.T) {
	const n = 3*128 + 5
	for _, qos := range []packet.QoS{1, 2} {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			y := &yard{t: t, path: filepath.Join(t.TempDir(), "store.db")}
			stop := y.serve()
			s := &site{t: t, address: *y.address.Load()}
			s.joined(kept("x"), filter("$share/g/#", 2)).leave()
			x := s.again(packet.V5, kept("x"))
			s.post("sent", 2, 1)
			x.expect("PUBLISH sent=m0 q2 id1")
			x.leave()
			s.post("t", qos, n)
			stop()
			defer y.serve()()
			s.address = *y.address.Load()
			w := s.joined(kept("other"), filter("$share/g/#", 2))
			s.connect(packet.V5, clean("x"))
			w.takes("t", qos, n)
			s.connect(packet.V5, kept("x")).silent()
		})
	}
}

// With a store that fails the session stays, and with it what it has.
func TestHandOnLater(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	x := s.joined(kept("x"), filter("$share/g/t", 1))
	x.leave()
	s.post("t", 1, 3)
	y := s.joined(kept("y"), filter("$share/g/t", 1))
	s.store.failWith(errors.New("no disk"))
	c := kept("x")
	c.CleanStart = true
	x = s.connect(packet.V5, c)
	if p := x.connack.Properties; p == nil || !p.HasSessionExpiry || p.SessionExpiry != 0 {
		t.Errorf("the client is told %+v, not that its session will end", p)
	}
	y.silent()
	s.store.failWith(nil)
	s.stop()
	s = start(t, s.store, broker.Limits{})
	y = s.again(packet.V5, kept("y"))
	s.connect(packet.V5, c)
	y.expect("PUBLISH t=m0 q1…", "PUBLISH t=m1 q1…", "PUBLISH t=m2 q1…")
	y.silent()
}

// A full store takes no message: each that cannot go on is dropped, and counted.
func TestHandOnWithoutRoom(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	x := s.joined(kept("x"), filter("$share/g/t", 1))
	s.post("t", 1, 3)
	x.expect("PUBLISH t=m0…", "PUBLISH t=m1…", "PUBLISH t=m2…")
	y := s.joined(kept("y"), filter("$share/g/t", 1))
	s.store.failWith(session.ErrFull)
	s.connect(packet.V5, clean("x"))
	y.silent()
	if n := s.server.Stats().Dropped.Load(); n != 3 {
		t.Errorf("%d messages are dropped, not 3", n)
	}
}

// A client that comes while its session ends waits for that, and gets a new one.
func TestHandOnIsWaitedFor(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	x := s.joined(kept("x"), filter("$share/g/t", 1))
	s.post("t", 1, 1)
	x.expect("PUBLISH t=m0…")
	y := s.joined(clean("y"), filter("$share/g/t", 1))
	s.store.pause(true)
	x.send(&packet.Disconnect{HasSessionExpiry: true})
	x.expect("closed")
	again := s.dial(packet.V5)
	c := kept("x")
	again.send(&c)
	if got := again.readWithin(50 * time.Millisecond); got != "nothing" {
		t.Errorf("got %q", got)
	}
	s.store.pause(false)
	again.expect("CONNACK Success")
	y.takes("t", 1, 1)
	again.silent()
}

// A message that is on its way to the store for a member whose session ends goes to another one, as if it had
// been there before.
func TestHandOnWhatIsComing(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	s.joined(kept("x"), filter("$share/g/t", 1)).leave()
	pub := s.connect(packet.V5, clean("pub"))
	s.store.crowd(true)
	pub.send(publish("t", "m0", 1, 1))
	eventually(t, "the message waits for room", s.store.hasWaited)
	y := s.joined(kept("y"), filter("$share/g/t", 1))
	x := s.dial(packet.V5)
	c := clean("x")
	x.send(&c)
	if got := x.readWithin(50 * time.Millisecond); got != "nothing" {
		t.Errorf("the client is told %q before its session has ended", got)
	}
	s.store.crowd(false)
	pub.expect("PUBACK 1")
	x.expect("CONNACK Success")
	y.takes("t", 1, 1)
}

// Between members that live in memory, what is acknowledged stays, and the rest goes on at the QoS of the other.
func TestHandOnBetweenMembersInMemory(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	x := s.joined(clean("x"), filter("$share/g/t", 1))
	s.post("t", 1, 3)
	x.expect("PUBLISH t=m0…", "PUBLISH t=m1…", "PUBLISH t=m2…")
	x.send(ack(packet.PUBACK, 2))
	x.silent()
	y := s.joined(clean("y"), filter("$share/g/t", 0))
	x.leave()
	y.expect("PUBLISH t=m0 q0", "PUBLISH t=m2 q0")
	y.silent()
	if n := s.server.Stats().Dropped.Load(); n != 0 {
		t.Errorf("%d messages are dropped", n)
	}
}

// When the gateway ends in the middle of it, each message is with the one or with the other, also at QoS 2, and
// the next start goes on.
func TestHandOnInPieces(t *testing.T) {
	const n = 2*128 + 50
	for _, qos := range []packet.QoS{1, 2} {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			s := start(t, nil, broker.Limits{})
			s.joined(kept("x"), filter("$share/g/t", 2)).leave()
			s.post("t", qos, n)
			s.joined(kept("y"), filter("$share/g/t", 2)).leave()
			eventually(t, "both are away", func() bool { return s.store.away("x") && s.store.away("y") })
			s.store.failAfter(3) // that its connection has ended, that all before is durable, and the first piece
			c := clean("x")
			s.connect(packet.V5, c).silent()
			s.stop()
			s.store.failWith(nil)
			if x, y := s.store.queued("x"), s.store.queued("y"); x+y != n || y != 128 {
				t.Errorf("%d messages are with the one, %d with the other", x, y)
			}
			s = start(t, s.store, broker.Limits{})
			s.connect(packet.V5, c)
			if x := s.store.queued("y"); x != n {
				t.Errorf("%d messages have been handed on", x)
			}
			s.again(packet.V5, kept("y")).takes("t", qos, n)
		})
	}
}

// After a restart nothing tells of a shared subscription that is no more but the messages themselves.
func TestHandOnAfterUnsubscribeAndRestart(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	x := s.joined(kept("x"), filter("$share/g/t", 1))
	s.post("t", 1, 3)
	x.expect("PUBLISH t=m0…", "PUBLISH t=m1…", "PUBLISH t=m2…")
	x.send(&packet.Unsubscribe{ID: 2, Filters: []string{"$share/g/t"}})
	x.expect("UNSUBACK 2…")
	x.leave()
	s.stop()
	s = start(t, s.store, broker.Limits{})
	y := s.joined(kept("y"), filter("$share/g/t", 1))
	s.connect(packet.V5, clean("x"))
	y.takes("t", 1, 3)
}

// A session that the store could not end while the disk failed, and that its client has let go of, does not come
// back with a clean start.
func TestCleanStartAfterAStopgap(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	x := s.joined(kept("x"), filter("$share/g/t", 1), filter("old", 1))
	x.leave()
	s.post("t", 1, 3)
	y := s.joined(kept("y"), filter("$share/g/t", 1))
	s.store.failWith(errors.New("no disk"))
	c := kept("x")
	c.CleanStart = true
	x = s.connect(packet.V5, c)
	s.store.failWith(nil)
	x.leave()
	x = s.connect(packet.V5, c)
	x.send(subscribe(1, filter("new", 1)))
	x.expect("SUBACK 1…")
	x.silent()
	for range 3 {
		y.expect("PUBLISH t=…") // another member has what x left
	}
	x.leave()
	s.stop()
	s = start(t, s.store, broker.Limits{})
	x = s.again(packet.V5, kept("x"))
	s.connect(packet.V5, clean("pub")).send(publish("old", "m", 0, 0), publish("new", "m", 0, 0))
	x.expect("PUBLISH new=m…")
}
