package hostile

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"gateway/broker/packet"
)

// slowReaders subscribe to a flood and take nothing of it.
func slowReaders(a *attack) {
	var readers []*foe
	for i := range 20 {
		f := a.join(packet.V5, name("slow", i))
		f.say(subscribe(0, "flood/#"))
		readers = append(readers, f)
	}
	before := a.counter("Dropped")
	a.flood("flood/x", 2000, 4<<10)
	if n := a.counter("Dropped") - before; n < 1000 {
		a.t.Errorf("%d messages are counted as dropped", n)
	}
	a.weigh()
	// What takes nothing for limits.write_timeout is not kept.
	// As long as there is more for it than the kernel holds back.
	eventually(a.t, "a slow reader is disconnected", func() bool {
		a.flood("flood/x", 50, 4<<10)
		return a.lines("it took nothing") >= len(readers)
	})
}

// flood publishes at QoS 0, and returns when the broker has taken it all.
func (a *attack) flood(topic string, n, size int) {
	a.t.Helper()
	pub := a.join(packet.V311, "flooder")
	defer a.drop(pub)
	p := publish(topic, 0, 0, make([]byte, size)).Append(nil, packet.V311)
	for range n {
		if !pub.raw(p) {
			a.t.Error("the flood is not taken")
			return
		}
	}
	pub.sync()
}

// sync returns when the broker has handled all that was said, and everything before is read.
func (f *foe) sync() {
	f.t.Helper()
	f.say(&packet.Ping{Type: packet.PINGREQ})
	for {
		h, _, err := f.hear()
		if err != nil {
			f.t.Errorf("no PINGRESP: %v", err)
			return
		}
		if h.Type == packet.PINGRESP {
			return
		}
	}
}

// greedyReaders ask for all retained messages as often as they can.
func greedyReaders(a *attack) {
	pub := a.join(packet.V311, "retainer")
	for i := range 1000 {
		p := publish(name("kept", i), 0, 0, make([]byte, 500))
		p.Retain = true
		pub.say(p)
	}
	pub.sync()
	filters := make([]string, 1000)
	for i := range filters {
		filters[i] = "#"
	}
	everything := subscribe(0, filters...)
	var all sync.WaitGroup
	for i := range 10 {
		f := a.join(packet.V5, name("greedy", i))
		all.Go(func() {
			for f.say(everything) { // until it is disconnected
			}
		})
	}
	a.weighWhile(&all)
	eventually(a.t, "they are disconnected", func() bool { return a.lines("it took nothing") >= 10 })
}

// pingsWithoutReading send PINGREQ until they are disconnected.
func pingsWithoutReading(a *attack) {
	pings := bytes.Repeat((&packet.Ping{Type: packet.PINGREQ}).Append(nil, packet.V5), 8<<10)
	var all sync.WaitGroup
	for i := range 10 {
		f := a.join(packet.V5, name("pinger", i))
		all.Go(func() {
			for end := time.Now().Add(30 * time.Second); f.raw(pings); {
				if time.Now().After(end) {
					a.t.Error("PINGREQ is taken without an end")
					return
				}
			}
		})
	}
	a.weighWhile(&all)
	eventually(a.t, "they are disconnected", func() bool { return a.lines("it took nothing") >= 10 })
}

// pingsWithoutEnd send PINGREQ for as long as they are read.
func pingsWithoutEnd(a *attack) {
	pings := bytes.Repeat((&packet.Ping{Type: packet.PINGREQ}).Append(nil, packet.V5), 8<<10)
	end := time.Now().Add(2 * time.Second)
	before := a.counter("PacketsReceived")
	var all sync.WaitGroup
	for i := range 10 {
		f := a.join(packet.V5, name("pinger", i))
		all.Go(func() { _, _ = io.Copy(io.Discard, f.nc) })
		all.Go(func() {
			_ = f.nc.SetWriteDeadline(end)
			for {
				if _, err := f.nc.Write(pings); err != nil {
					a.drop(f)
					return
				}
			}
		})
	}
	all.Wait()
	if n := a.counter("PacketsReceived") - before; n > 10*5000 {
		a.t.Errorf("%d pings are answered, at 200 a second for each of ten and 2000 at once", n)
	}
	if a.counter("Slowed") == 0 {
		a.t.Error("who is slowed down is not counted")
	}
	if n := a.lines("it asks for too much"); n != 1 {
		a.t.Errorf("%d lines tell of it, want 1", n)
	}
}

// noAcknowledgement takes everything and acknowledges nothing.
func noAcknowledgement(a *attack) {
	for i := range 10 {
		f := a.join(packet.V5, name("mute", i))
		f.say(subscribe(packet.QoS(1+i%2), "flood/#"))
		f.sync()
	}
	before := a.counter("Dropped")
	pub := a.join(packet.V5, "flooder")
	for i := range 500 {
		pub.say(publish("flood/x", 2, uint16(i%50+1), make([]byte, 1<<10)), &packet.Ack{Type: packet.PUBREL, ID: uint16(i%50 + 1)})
		if i%50 == 49 {
			pub.sync()
		}
	}
	if n := a.counter("Dropped") - before; n < 3000 {
		a.t.Errorf("%d messages are counted as dropped", n)
	}
	if n := a.lines("queue is full"); n != 10 {
		a.t.Errorf("%d lines tell of 10 full queues", n)
	}
}

// halfPackets announce as much as there can be, and send half of it.
func halfPackets(a *attack) {
	half := append([]byte{0x30, 0xFC, 0xFF, 0x03}, make([]byte, 32<<10)...)
	var foes []*foe
	for i := range 40 {
		f, _ := a.connect(packet.V5, packet.Connect{ClientID: name("half", i), CleanStart: true, KeepAlive: 1})
		f.raw(half)
		foes = append(foes, f)
	}
	a.weigh()
	for _, f := range foes {
		f.wantTold(packet.KeepAliveTimeout)
	}
	f := a.join(packet.V5, "too much")
	f.raw([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F})
	f.wantTold(packet.PacketTooLarge)
}

// dribble sends a byte every few milliseconds until the broker has had enough.
func (f *foe) dribble(b []byte) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; i < len(b) && f.raw(b[i:i+1]); i++ {
		<-tick.C
	}
}

// dribblersBefore send a CONNECT that takes longer than limits.connect_timeout.
func dribblersBefore(a *attack) {
	c := packet.Connect{Version: packet.V5, ClientID: "x", Username: string(bytes.Repeat([]byte("u"), 1000)), HasUsername: true}
	before := a.counter("Refused")
	var all sync.WaitGroup
	for range 40 {
		f := a.dial(packet.V5)
		all.Go(func() {
			f.dribble(c.Append(nil, packet.V5))
			f.wantClosed()
		})
	}
	all.Wait()
	eventually(a.t, "they are counted", func() bool { return a.counter("Refused")-before >= 40 })
	if n := a.lines("no CONNECT in time"); n < 10 || n > 40 {
		a.t.Errorf("%d lines say why 40 were refused", n)
	}
}

// dribblersAfter send a PUBLISH that takes longer than the keep alive allows.
func dribblersAfter(a *attack) {
	slow := publish("x", 0, 0, make([]byte, 200)).Append(nil, packet.V5)
	var all sync.WaitGroup
	for i := range 40 {
		f, _ := a.connect(packet.V5, packet.Connect{ClientID: name("dribbler", i), CleanStart: true, KeepAlive: 1})
		all.Go(func() {
			f.dribble(slow)
			f.wantTold(packet.KeepAliveTimeout)
		})
	}
	all.Wait()
}

// randomBytes are sent before CONNECT and after it.
func randomBytes(a *attack) {
	random := rand.NewChaCha8([32]byte{1})
	told := 0
	for i := range 300 {
		f := a.dial(packet.V5)
		if i%2 == 1 {
			// One that has just gone may still be in the way.
			for reason := packet.UnspecifiedError; reason != packet.Success; {
				a.drop(f)
				f, reason = a.connect(packet.V5, packet.Connect{ClientID: name("random", i), CleanStart: true})
			}
		}
		b := make([]byte, 1+i*4)
		_, _ = random.Read(b)
		f.raw(b)
		if i%2 == 0 {
			_ = f.nc.(*net.TCPConn).CloseWrite()
			f.wantClosed()
		} else {
			// What is no packet is told so; what is the beginning of a long one waits for the rest.
			f.raw([]byte{0xF0, 0x00, 0x00})
			_ = f.nc.(*net.TCPConn).CloseWrite()
			if reason, err := f.told(); err == nil && reason.Failed() {
				told++
			}
		}
		a.drop(f)
	}
	if told < 75 {
		a.t.Errorf("%d of 150 are told why they are disconnected", told)
	}
}

// takeoverStorm is one client identifier that everybody uses.
func takeoverStorm(a *attack) {
	const users, rounds = 10, 60
	var mu sync.Mutex
	told := 0
	var all sync.WaitGroup
	for range users {
		all.Go(func() {
			for i := range rounds {
				f, reason := a.connect(packet.V5, packet.Connect{ClientID: "everybody", CleanStart: i%3 == 0,
					Properties: packet.ConnectProperties{SessionExpiry: 60, HasSessionExpiry: true}})
				if reason != packet.Success {
					continue // it was taken over before it was told that it is in, or there is no room
				}
				f.say(subscribe(1, "storm"), publish("storm", 1, 1, []byte("x")))
				if reason, err := f.told(); err == nil && reason == packet.SessionTakenOver {
					mu.Lock()
					told++
					mu.Unlock()
				}
			}
		})
	}
	// The last one of all is taken over by nobody: its user waits until somebody is sent.
	done := make(chan struct{})
	go func() { all.Wait(); close(done) }()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-done:
			if told < users*rounds/4 {
				a.t.Errorf("%d of %d are told that they were taken over", told, users*rounds)
			}
			return
		case <-tick.C:
			a.connect(packet.V5, packet.Connect{ClientID: "everybody", CleanStart: true})
		}
	}
}

// burst is 10,000 connects, as fast as they go.
func burst(a *attack) {
	before := a.counter("Refused")
	hello := packet.Connect{Version: packet.V311, CleanStart: true}
	b := hello.Append(nil, packet.V311)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			for j := range 500 {
				f := a.dial(packet.V311)
				if (i+j)%2 == 0 {
					f.raw(b)
				}
				if j >= 10 { // some stay
					a.drop(f)
				}
			}
		})
	}
	all.Wait()
	eventually(a.t, "the broker has seen them all", func() bool { return a.counter("Refused")-before > 0 })
	if n := a.lines("connection refused"); n > 12_000 {
		a.t.Errorf("%d lines about 10,000 connections", n)
	}
	if n := a.lines(`level=WARN msg="connection refused"`); n > 2 {
		a.t.Errorf("%d warnings about one burst", n)
	}
}

// drop cuts one connection.
func (a *attack) drop(f *foe) {
	_ = f.nc.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.foes {
		if a.foes[i] == f {
			a.foes = append(a.foes[:i], a.foes[i+1:]...)
			return
		}
	}
}

// randomSessions leave as many sessions as they can.
func randomSessions(a *attack) {
	refused := 0
	for i := range 400 {
		f, reason := a.connect(packet.V5, packet.Connect{ClientID: fmt.Sprintf("%064d", i),
			Properties: packet.ConnectProperties{SessionExpiry: 3600, HasSessionExpiry: true}})
		if reason == packet.QuotaExceeded {
			refused++
		} else if reason != packet.Success {
			a.t.Fatalf("session %d: %s", i, reason)
		} else {
			f.say(&packet.Disconnect{})
			f.wantClosed()
		}
		a.drop(f)
	}
	if refused < 400-a.limits.Sessions {
		a.t.Errorf("%d are refused, the limit is %d", refused, a.limits.Sessions)
	}
}

// willBombs leave large wills, and make them all due at once.
func willBombs(a *attack) {
	sub := a.join(packet.V5, "mourner")
	sub.say(subscribe(1, "wills"))
	will := &packet.Will{Topic: "wills", QoS: 2, Retain: true, Payload: make([]byte, 4000)}
	for i := range 100 {
		f, reason := a.connect(packet.V5, packet.Connect{ClientID: name("bomb", i), Will: will})
		if reason != packet.Success {
			a.t.Fatalf("bomb %d: %s", i, reason)
		}
		defer a.drop(f)
	}
	large := *will
	large.Payload = make([]byte, 5000)
	if _, reason := a.connect(packet.V5, packet.Connect{ClientID: "large", Will: &large}); reason != packet.QuotaExceeded {
		a.t.Errorf("a will beyond the limit: %s", reason)
	}
}
