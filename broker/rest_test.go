package broker_test

import (
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
)

// A connection that has been quiet for a while, so that it rests, is answered as before, and the
// keep alive goes on: 1.5 times the interval after the last packet it ends, no sooner
// [MQTT-3.1.2-22]. The time that it had to connect does not count any more.
func TestRest(t *testing.T) {
	eachVersion(t, func(t *testing.T, v packet.Version) {
		t.Parallel()
		s := start(t, nil, broker.Limits{ConnectTime: time.Second})
		c := clean("quiet")
		c.KeepAlive = 1
		w := s.connect(v, c)
		pings := time.NewTicker(700 * time.Millisecond)
		defer pings.Stop()
		var last time.Time
		for range 4 { // 2.8 s: longer than one keep alive
			<-pings.C
			last = time.Now()
			w.send(&packet.Ping{Type: packet.PINGREQ})
			w.expect("PINGRESP")
		}
		if v == packet.V5 {
			w.expect("DISCONNECT " + packet.KeepAliveTimeout.String() + "…")
		}
		w.expect("closed")
		if took := time.Since(last); took < 1500*time.Millisecond || took > 2500*time.Millisecond {
			t.Errorf("closed %v after the last packet, want 1.5 s", took)
		}
	})
}
