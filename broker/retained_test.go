package broker_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
)

// retain returns a PUBLISH with the RETAIN flag.
func retain(topic, payload string, qos packet.QoS, id uint16) *packet.Publish {
	p := publish(topic, payload, qos, id)
	p.Retain = true
	return p
}

// [MQTT-3.3.2-5], [MQTT-3.3.2-6]: a retained message grows old, at QoS 0 too.
func TestRetainedMessageExpires(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	w := s.connect(packet.V5, clean("w"))
	for topic, expiry := range map[string]uint32{"r/long": 100, "r/short": 1} {
		p := retain(topic, "x", 0, 0)
		p.Properties = &packet.PublishProperties{HasMessageExpiry: true, MessageExpiry: expiry}
		w.send(p)
	}
	for begin := time.Now(); time.Since(begin) < 1100*time.Millisecond; {
		w.silent()
	}
	w.send(subscribe(1, filter("r/+", 0)))
	w.expect("SUBACK 1…", "PUBLISH r/long=x q0 retain expiry99")
	w.silent()
	eventually(t, "the expired one is gone from the store", func() bool {
		s.store.mu.Lock()
		defer s.store.mu.Unlock()
		return len(s.store.retained) == 1
	})
}

// What is retained is bounded, about 58 KiB of statistics included; more is refused, and passed on at QoS 0.
func TestRetainedBytes(t *testing.T) {
	s := start(t, nil, broker.Limits{RetainedBytes: 71 << 10})
	w := s.connect(packet.V5, clean("w"))
	w.send(subscribe(1, packet.Subscription{Filter: "r/#", RetainHandling: 2}))
	w.expect("SUBACK 1…")
	big := strings.Repeat("x", 4<<10)
	for i, reason := range []packet.ReasonCode{packet.Success, packet.Success, packet.QuotaExceeded} {
		w.send(retain(fmt.Sprint("r/", i), big, 2, uint16(i+1)))
		if reason == packet.Success {
			w.expect(fmt.Sprintf("PUBLISH r/%d=…", i), fmt.Sprintf("PUBREC %d", i+1))
		} else {
			w.expect(fmt.Sprintf("PUBREC %d %s", i+1, reason))
		}
	}
	w.send(retain("r/3", big, 0, 0))
	w.expect("PUBLISH r/3=…")
	w.send(retain("r/0", "", 1, 9)) // makes room
	w.expect("PUBLISH r/0= q0", "PUBACK 9")
	w.send(retain("r/2", big, 2, 3)) // under the identifier that was refused
	w.expect("PUBLISH r/2=…", "PUBREC 3")
	other := s.connect(packet.V5, clean("other"))
	other.send(subscribe(1, filter("r/#", 0)))
	other.expect("SUBACK 1…", "PUBLISH r/…", "PUBLISH r/…")
	other.silent()
}

// One SUBSCRIBE may ask for everything a thousand times. It is sent as it is taken.
func TestRetainedMessagesAreSentAsTheyAreTaken(t *testing.T) {
	s := start(t, nil, broker.Limits{OutBytes: 4 << 10})
	pub := s.connect(packet.V5, clean("pub"))
	const retained = 500
	for i := range retained {
		pub.send(retain(fmt.Sprint("r/", i), "x", 0, 0))
	}
	pub.silent()
	p := &packet.Subscribe{ID: 1}
	const filters = 20
	for range filters {
		p.Filters = append(p.Filters, filter("#", 0))
	}
	w := s.pipe(packet.V5, nil)
	c := clean("w")
	w.send(&c)
	w.expect("CONNACK…")
	w.send(p)
	w.expect("SUBACK…")
	// Its reader waits, so it takes no PINGREQ now; and the end of the connection is noticed.
	ping := (&packet.Ping{Type: packet.PINGREQ}).Append(nil, packet.V5)
	_ = w.nc.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := w.nc.Write(ping); err == nil {
		t.Error("the client is read while it takes nothing")
	}
	_ = w.nc.SetWriteDeadline(time.Time{})
	for range retained * filters {
		w.expect("PUBLISH r/…")
	}
	w.silent()
}

// Whoever subscribes while a retained message changes learns the newest value last.
func TestRetainedOrder(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	const rounds = 300
	for _, qos := range []packet.QoS{0, 1} {
		pub := s.connect(packet.V5, clean("pub"))
		sub := s.connect(packet.V5, clean("sub"))
		topic := fmt.Sprint("t", qos)
		for i := range rounds {
			old, new := fmt.Sprint("old", i), fmt.Sprint("new", i)
			pub.send(retain(topic, old, 1, 1))
			pub.expect("PUBACK…")
			var both sync.WaitGroup
			both.Go(func() { pub.send(retain(topic, new, 1, 1)) })
			both.Go(func() { sub.send(subscribe(1, filter(topic, qos))) })
			both.Wait()
			pub.expect("PUBACK…")
			last := ""
			for sub.send(&packet.Ping{Type: packet.PINGREQ}); ; {
				got := sub.read()
				if got == "PINGRESP" {
					break
				}
				if strings.HasPrefix(got, "SUBACK") {
					continue
				}
				last = got
				var id uint16
				if _, err := fmt.Sscanf(got[strings.Index(got, " q")+1:], "q1 id%d", &id); err == nil {
					sub.send(ack(packet.PUBACK, id))
				}
			}
			if !strings.Contains(last, "="+new+" ") {
				t.Fatalf("round %d: the last is %q, want %s", i, last, new)
			}
			sub.send(&packet.Unsubscribe{ID: 2, Filters: []string{topic}})
			sub.expect("UNSUBACK…")
		}
	}
}

// Nobody acknowledges what is retained at QoS 0: a client that brings it faster than the disk takes it is
// read more slowly, so that others do not wait for commits with thousands of pages.
func TestRetainedMessagesWaitForTheDisk(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	pub, other := s.connect(packet.V5, clean("pub")), s.connect(packet.V5, clean("other"))
	s.store.pause(true)
	waiting := func() int {
		s.store.mu.Lock()
		defer s.store.mu.Unlock()
		return len(s.store.pending)
	}
	before := waiting()
	const most, all = 64, 200
	for i := range all {
		pub.send(retain(fmt.Sprint("r/", i), "x", 0, 0))
	}
	eventually(t, "the first of them wait for the disk", func() bool { return waiting() == before+most })
	for range 50 {
		other.silent() // is heard as before
	}
	if n := waiting() - before; n != most {
		t.Errorf("%d retained messages wait for the disk, want %d", n, most)
	}
	s.store.pause(false)
	eventually(t, "all are stored", func() bool {
		s.store.mu.Lock()
		defer s.store.mu.Unlock()
		n := 0
		for topic := range s.store.retained {
			if strings.HasPrefix(topic, "r/") {
				n++
			}
		}
		return n == all
	})
	pub.silent()
}
