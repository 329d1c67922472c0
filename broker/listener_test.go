package broker_test

import (
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
)

// TestVersions lets in the versions of MQTT that a listener speaks, and says so to the others
// [MQTT-3.1.2-2].
func TestVersions(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	all := []packet.Version{packet.V31, packet.V311, packet.V5}
	for _, only := range all {
		l := s.listen(broker.Listener{Name: "some", Versions: []packet.Version{only}})
		for _, v := range all {
			w := l.dial(v)
			c := clean("device")
			c.Version = v
			w.send(&c)
			if v == only {
				w.expect("CONNACK Success")
			} else {
				w.expect("CONNACK Unsupported Protocol Version", "closed")
			}
		}
	}
}

// TestBounds holds the clients of one listener to its own limits.
func TestBounds(t *testing.T) {
	s := start(t, nil, broker.Limits{PacketSize: 1000})
	l := s.listen(broker.Listener{Name: "small", Bounds: broker.Bounds{
		Connections: 2, PacketSize: 100, ConnectTime: 50 * time.Millisecond, KeepAlive: 7 * time.Second,
	}})
	l.dial(packet.V5).expect("closed") // no CONNECT in time

	w := l.dial(packet.V5)
	c := clean("device")
	w.send(&c)
	w.expect("CONNACK Success")
	if p := w.connack.Properties; p.MaximumPacketSize != 100 || p.ServerKeepAlive != 7 {
		t.Errorf("CONNACK tells of packets up to %d bytes and a keep alive of %d s, want 100 and 7", p.MaximumPacketSize, p.ServerKeepAlive)
	}
	var second *wire
	eventually(t, "the place of the one without CONNECT is free", func() bool {
		second = l.dial(packet.V5)
		c := clean("second")
		_, _ = second.nc.Write(c.Append(nil, packet.V5))
		return second.read() == "CONNACK Success"
	})
	l.dial(packet.V5).expect("closed")
	elsewhere := s.connect(packet.V5, clean("elsewhere"))
	elsewhere.send(publish("a", string(make([]byte, 500)), 0, 0))
	elsewhere.silent()
	second.send(publish("a", string(make([]byte, 500)), 0, 0))
	second.expect("DISCONNECT Packet too large", "closed")
	eventually(t, "the place is free", func() bool {
		w := l.dial(packet.V5)
		c := clean("third")
		_, _ = w.nc.Write(c.Append(nil, packet.V5))
		return w.read() == "CONNACK Success"
	})
}
