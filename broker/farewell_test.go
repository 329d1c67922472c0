package broker_test

import (
	"strings"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
)

// A client for which there is no place is told so, and takes none.
func TestFarewell(t *testing.T) {
	s := start(t, nil, broker.Limits{Connections: 1})
	in := s.connect(packet.V5, clean("in"))
	for _, tt := range []struct {
		v    packet.Version
		most uint32
		want string
	}{
		{packet.V31, 0, "CONNACK Server unavailable"},
		{packet.V311, 0, "CONNACK Server unavailable"},
		{packet.V5, 0, "CONNACK Quota exceeded"},
		{packet.V5, 10, "CONNACK Quota exceeded"},
	} {
		w := s.dial(tt.v)
		c := clean("out")
		c.Properties.MaximumPacketSize = tt.most
		w.send(&c)
		w.expect(tt.want, "closed")
		if p := w.connack.Properties; tt.v == packet.V5 && (p != nil && strings.Contains(p.ReasonString, "limits.connections")) != (tt.most == 0) {
			t.Errorf("[MQTT-3.2.2-19] with at most %d bytes: %+v", tt.most, p)
		}
	}
	if got := s.server.Stats().Limits.Of("connections"); got != 4 {
		t.Errorf("%d are counted, want 4", got)
	}
	in.silent()
}

// What says anything but a small CONNECT, or nothing, is closed, and only a few wait for it at a time.
func TestFarewellIsShort(t *testing.T) {
	s := start(t, nil, broker.Limits{Connections: 1})
	s.connect(packet.V5, clean("in"))
	large := clean(strings.Repeat("x", 600))
	for _, said := range [][]byte{{0xC0, 0}, {0xFF, 0xFF, 0xFF, 0xFF, 0xFF}, {0x10, 2, 0, 0}, large.Append(nil, packet.V5)} {
		w := s.dial(packet.V5)
		w.raw(said)
		w.expect("closed")
	}
	begin := time.Now()
	var silent []*wire
	for range 50 {
		silent = append(silent, s.dial(packet.V5))
	}
	w := s.dial(packet.V5)
	w.expect("closed")
	if d := time.Since(begin); d > 900*time.Millisecond {
		t.Errorf("beyond those that are told, one is closed after %v", d)
	}
	for _, w := range silent {
		w.expect("closed")
	}
}
