package broker_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/packet"
)

// Connections beyond a limit are closed at once, and room that is left is used again.
func TestConnectionLimits(t *testing.T) {
	for name, limits := range map[string]broker.Limits{
		"connections": {Connections: 2},
		"handshakes":  {Handshakes: 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, nil, limits)
			a, b := s.dial(packet.V5), s.dial(packet.V5)
			over := s.dial(packet.V5)
			over.expect("closed")
			c := clean("a")
			a.send(&c)
			a.expect("CONNACK Success")
			if name == "connections" {
				_ = b.nc.Close()
			}
			// A place has become free, but the server may not have noticed yet.
			for deadline := time.Now().Add(5 * time.Second); ; {
				w := s.dial(packet.V5)
				c := clean("c")
				_, _ = w.nc.Write(c.Append(nil, packet.V5))
				if got := w.read(); got == "CONNACK Success" {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the free place is not used")
				}
			}
			if s.server.Stats().Refused.Load() == 0 {
				t.Error("the refusal is not counted")
			}
		})
	}
}

// A client that publishes too much is slowed down, without loss; others are not.
func TestMessageRate(t *testing.T) {
	s := start(t, nil, broker.Limits{MessageRate: 20})
	fast := s.connect(packet.V311, clean("fast"))
	begin := time.Now()
	for i := range 40 { // a burst of 20, then 20 in a second
		fast.send(publish("d", "x", 1, uint16(i+1)))
	}
	slow := s.connect(packet.V311, clean("slow"))
	slow.send(publish("d", "x", 1, 1))
	slow.expect("PUBACK 1")
	if d := time.Since(begin); d > 500*time.Millisecond {
		t.Errorf("another client waited for %v", d)
	}
	for i := range 40 {
		fast.expect(fmt.Sprintf("PUBACK %d", i+1))
	}
	if d := time.Since(begin); d < 900*time.Millisecond {
		t.Errorf("40 messages took %v, want a second at least", d)
	}
	if s.server.Stats().Slowed.Load() == 0 {
		t.Error("it is not counted")
	}
}

// What waits because a client publishes too much is not taken after another connection has its session.
func TestTakeoverOfSlowedClient(t *testing.T) {
	s := start(t, nil, broker.Limits{MessageRate: 2})
	listener := s.connect(packet.V5, clean("listener"))
	listener.send(subscribe(1, filter("t", 0)))
	listener.expect("SUBACK 1…")
	w := s.connect(packet.V5, clean("c"))
	for i := range 3 { // a burst of 2, and another half a second later
		w.send(publish("t", fmt.Sprint(i), 0, 0))
	}
	listener.expect("PUBLISH t=0 q0", "PUBLISH t=1 q0")
	again := s.connect(packet.V5, clean("c"))
	again.send(publish("t", "new", 0, 0))
	listener.expect("PUBLISH t=new q0")
	if got := listener.readWithin(time.Second); got != "nothing" {
		t.Errorf("%s comes after what was sent later", got)
	}
}

// A packet may be as large as its listener allows, whatever the rate of bytes is.
func TestByteRateOfLargePackets(t *testing.T) {
	s := start(t, nil, broker.Limits{ByteRate: 1 << 10, PacketSize: 1 << 10})
	l := s.listen(broker.Listener{Name: "large", Auth: auth.Anonymous{}, Bounds: broker.Bounds{PacketSize: 64 << 10}})
	w := l.connect(packet.V5, clean("c"))
	w.send(publish("t", strings.Repeat("x", 32<<10), 1, 1))
	w.expect("PUBACK 1 No matching subscribers")
}

// A client that asks for too much is slowed down, and neither others nor itself on a new connection.
func TestRequestRate(t *testing.T) {
	s := start(t, nil, broker.Limits{RequestRate: 100, Subscriptions: 1})
	fast := s.connect(packet.V5, clean("fast"))
	begin := time.Now()
	const burst, more = 1000, 100
	for range burst + more {
		fast.send(&packet.Ping{Type: packet.PINGREQ})
	}
	slow := s.connect(packet.V5, clean("slow"))
	slow.send(&packet.Ping{Type: packet.PINGREQ})
	slow.expect("PINGRESP")
	if d := time.Since(begin); d > 700*time.Millisecond {
		t.Errorf("another client waited for %v", d)
	}
	for range burst + more {
		fast.expect("PINGRESP")
	}
	if d := time.Since(begin); d < 900*time.Millisecond {
		t.Errorf("%d pings took %v, want a second at least", burst+more, d)
	}
	if s.server.Stats().Slowed.Load() == 0 {
		t.Error("it is not counted")
	}

	filters := &packet.Subscribe{ID: 1}
	for range burst {
		filters.Filters = append(filters.Filters, packet.Subscription{Filter: "a"})
	}
	fast.send(filters)
	begin = time.Now()
	s.connect(packet.V5, clean("fast"))
	fast.expect("DISCONNECT " + packet.SessionTakenOver.String())
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("a client that is slowed down is in the way for %v", d)
	}
}

// [MQTT-3.1.2-22]: the time for which a client is made to wait is not its silence.
func TestKeepAliveWhileSlowedDown(t *testing.T) {
	s := start(t, nil, broker.Limits{RequestRate: 100, Subscriptions: 1})
	c := clean("fast")
	c.KeepAlive = 1
	w := s.connect(packet.V5, c)
	const burst = 1000
	for range burst {
		w.send(&packet.Ping{Type: packet.PINGREQ})
	}
	for range burst {
		w.expect("PINGRESP")
	}
	filters := &packet.Subscribe{ID: 1}
	for range 300 { // three seconds' worth, some of which the pings have given back on a slow machine
		filters.Filters = append(filters.Filters, packet.Subscription{Filter: "a"})
	}
	begin := time.Now()
	w.send(filters, &packet.Ping{Type: packet.PINGREQ})
	w.expect("SUBACK 1…")
	if d := time.Since(begin); d < 1600*time.Millisecond {
		t.Errorf("it waits for %v, which is no longer than its keep alive allows", d)
	}
	w.expect("PINGRESP")
	w.silent()
}

// Sessions are bounded: a client that makes up identifiers cannot fill the memory.
func TestSessionLimit(t *testing.T) {
	s := start(t, nil, broker.Limits{Sessions: 2})
	for i := range 2 {
		w := s.connect(packet.V5, kept(fmt.Sprint("c", i)))
		w.send(&packet.Disconnect{})
		w.expect("closed")
	}
	w := s.dial(packet.V5)
	c := kept("c3")
	w.send(&c)
	w.expect("CONNACK Quota exceeded", "closed")
	old := s.dial(packet.V311)
	old.send(&c)
	old.expect("CONNACK "+packet.ServerUnavailable.String(), "closed")
	w = s.dial(packet.V5)
	c = kept("c1")
	w.send(&c)
	w.expect("CONNACK Success present")
	_ = w.nc.(*net.TCPConn).Close()
}

// A gateway that is drained sends its clients elsewhere (5.0, 4.11).
func TestUseAnotherServer(t *testing.T) {
	s := startWith(t, nil, broker.Options{UseAnother: "spare.example:1883"})
	w := s.dial(packet.V5)
	c := clean("c")
	w.send(&c)
	w.expect("CONNACK "+packet.UseAnotherServer.String()+" spare.example:1883", "closed")
	w = s.dial(packet.V311)
	w.send(&c)
	w.expect("CONNACK "+packet.ServerUnavailable.String(), "closed")
}
