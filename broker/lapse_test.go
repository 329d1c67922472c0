package broker_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
)

// lasting is a message with an expiry interval, in seconds.
func lasting(seconds uint32, p *packet.Publish) *packet.Publish {
	p.Properties = &packet.PublishProperties{MessageExpiry: seconds, HasMessageExpiry: true}
	return p
}

// elapse returns when some time has passed. The client stays connected.
func (w *wire) elapse(d time.Duration) {
	w.t.Helper()
	for began := time.Now(); time.Since(began) < d; {
		w.silent()
	}
}

// Retained messages that have expired make room for others, though nobody asks for them [MQTT-3.3.2-5].
func TestExpiredRetainedMessagesMakeRoom(t *testing.T) {
	s := start(t, nil, broker.Limits{RetainedBytes: 256 << 10})
	w := s.connect(packet.V5, clean("w"))
	big := strings.Repeat("x", 4<<10)
	n := uint16(0)
	for full := false; !full; {
		n++
		w.send(lasting(1, retain(fmt.Sprint("r/", n), big, 1, n)), lasting(1, retain(fmt.Sprint("r/", n), big, 1, n+1)))
		answer := w.read()
		w.read()
		full = answer == fmt.Sprintf("PUBACK %d %s", n, packet.QuotaExceeded)
	}
	w.elapse(1100 * time.Millisecond)
	w.send(retain("fresh", big, 1, 1))
	w.expect("PUBACK 1 " + packet.NoMatchingSubscribers.String())
	eventually(t, "those that have expired are gone from the store", func() bool {
		s.store.mu.Lock()
		defer s.store.mu.Unlock()
		return len(s.store.retained) == 1
	})
	w.send(subscribe(1, filter("#", 0)))
	w.expect("SUBACK 1…", "PUBLISH fresh…")
	w.silent()
}
