package broker_test

import (
	"net"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
)

// A connection that has been quiet for a while, so that it rests, is answered as before, and the
// keep alive goes on: 1.5 times the interval after the last packet it ends, no sooner
// [MQTT-3.1.2-22]. The time that it had to connect does not count any more.
func TestRest(t *testing.T) {
	for _, way := range []struct {
		name string
		dial func(*site, packet.Version) *wire
	}{
		{"socket", (*site).dial},
		{"TLS", func(s *site, v packet.Version) *wire { return s.pipe(v, selfSigned(s.t)) }},
		{"WebSocket", func(s *site, v packet.Version) *wire {
			return s.pipeThrough(v, nil, same, func(nc net.Conn) net.Conn { return &stern{Conn: nc} })
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, v packet.Version) {
				t.Parallel()
				s := start(t, nil, broker.Limits{ConnectTime: time.Second})
				w := way.dial(s, v)
				c := clean("quiet")
				c.KeepAlive = 1
				w.send(&c)
				w.expect("CONNACK Success…")
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
		})
	}
}

func same(nc net.Conn) net.Conn { return nc }

// A stern connection keeps its first error, as a WebSocket does.
type stern struct {
	net.Conn
	err error // of the reader alone
}

func (s *stern) DeadlinePasses() bool { return false }

func (s *stern) Read(b []byte) (n int, err error) {
	if s.err == nil {
		n, s.err = s.Conn.Read(b)
	}
	return n, s.err
}

// Halves are a connection on whose way each write is torn in two, with a pause in between.
type halves struct {
	net.Conn
	pause time.Duration
}

func (h halves) Write(b []byte) (int, error) {
	n, err := h.Conn.Write(b[:len(b)/2])
	if err != nil {
		return n, err
	}
	<-time.After(h.pause)
	k, err := h.Conn.Write(b[n:])
	return n + k, err
}

// A connection through TLS may begin to rest in the middle of a record.
func TestRestWithinRecord(t *testing.T) {
	t.Parallel()
	s := start(t, nil, broker.Limits{})
	w := s.pipeThrough(packet.V311, selfSigned(t), func(nc net.Conn) net.Conn { return halves{nc, 300 * time.Millisecond} }, same)
	c := clean("torn")
	w.send(&c)
	w.expect("CONNACK Success…")
	for range 3 {
		w.send(&packet.Ping{Type: packet.PINGREQ})
		w.expect("PINGRESP")
	}
}
