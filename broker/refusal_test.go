package broker_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
)

// frame returns the next packet as it is on the wire.
func (w *wire) frame() (packet.Header, []byte) {
	w.t.Helper()
	_ = w.nc.SetReadDeadline(time.Now().Add(5 * time.Second))
	read := bytes.NewReader(w.buf) // by another call, beyond its packet
	defer func() { w.buf = w.buf[len(w.buf)-read.Len():] }()
	all := io.MultiReader(read, w.nc)
	var b []byte
	for {
		h, n, err := packet.ParseHeader(b)
		if err != nil {
			w.t.Fatal(err)
		}
		if n > 0 {
			body := make([]byte, h.Length)
			if _, err := io.ReadFull(all, body); err != nil {
				w.t.Fatal(err)
			}
			return h, body
		}
		b = append(b, 0)
		if _, err := io.ReadFull(all, b[len(b)-1:]); err != nil {
			w.t.Fatal(err)
		}
	}
}

// [MQTT-3.1.2-29], [MQTT-3.4.2-2], [MQTT-3.5.2-2], [MQTT-3.6.2-2], [MQTT-3.7.2-2], [MQTT-3.9.2-1]: a refusal says why, to those who
// want to know and have room for it.
func TestReasonStrings(t *testing.T) {
	s := start(t, nil, broker.Limits{Subscriptions: 1, RetainedBytes: 20 << 10})
	for _, tt := range []struct {
		name  string
		props packet.ConnectProperties
		told  bool
	}{
		{"wants to know", packet.ConnectProperties{}, true},
		{"does not want to know", packet.ConnectProperties{NoProblemInfo: true}, false},
		{"has no room", packet.ConnectProperties{MaximumPacketSize: 40}, false},
	} {
		c := clean(tt.name)
		c.Properties = tt.props
		w := s.connect(packet.V5, c)
		check := func(what, text string) {
			t.Helper()
			if got := text != ""; got != tt.told {
				t.Errorf("%s: the %s is explained by %q", tt.name, what, text)
			}
		}
		for qos, typ := range map[packet.QoS]packet.Type{1: packet.PUBACK, 2: packet.PUBREC} {
			for _, p := range []*packet.Publish{
				publish("$SYS/x", "x", qos, 1),
				retain("big", strings.Repeat("x", 20<<10), qos, 2),
			} {
				w.send(p)
				h, body := w.frame()
				a, err := w.dec.Ack(h.Type, body)
				if err != nil || h.Type != typ || !a.Reason.Failed() {
					t.Fatalf("%s %+v, %v", h.Type, a, err)
				}
				check(fmt.Sprint(typ, " ", a.Reason), a.ReasonString)
			}
		}
		for _, filters := range [][]packet.Subscription{{filter("a/#/b", 0)}, {filter("a", 0), filter("b", 0)}} {
			w.send(subscribe(1, filters...))
			h, body := w.frame()
			a, err := w.dec.Suback(h.Type, body)
			if err != nil {
				t.Fatal(err)
			}
			check(fmt.Sprint(a.Reasons), a.ReasonString)
		}
		for typ, answer := range map[packet.Type]packet.Type{packet.PUBREL: packet.PUBCOMP, packet.PUBREC: packet.PUBREL} {
			w.send(ack(typ, 9))
			h, body := w.frame()
			a, err := w.dec.Ack(h.Type, body)
			if err != nil || h.Type != answer || a.Reason != packet.PacketIDNotFound {
				t.Fatalf("%s %+v, %v", h.Type, a, err)
			}
			check(fmt.Sprint(answer), a.ReasonString)
		}
		w.send(publish("ok", "x", 1, 3))
		w.expect("PUBACK 3 " + packet.NoMatchingSubscribers.String())
	}
	old := s.connect(packet.V311, clean("old"))
	old.send(subscribe(1, filter("a/#/b", 0)))
	old.expect("SUBACK 1 [" + packet.UnspecifiedError.String() + "]")
}

// [MQTT-3.1.2-24]: a client that takes no packet with what it has to know is refused before anything
// takes effect.
func TestWhatDoesNotFitHasNoEffect(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	before := s.connect(packet.V5, kept("a"))
	before.send(subscribe(1, filter("d", 1)))
	before.expect("SUBACK…")
	c := kept("a")
	c.CleanStart, c.Properties.MaximumPacketSize = true, 10
	w := s.dial(packet.V5)
	w.send(&c)
	w.expect("CONNACK "+packet.PacketTooLarge.String(), "closed")
	before.send(publish("d", "still here", 0, 0))
	before.expect("PUBLISH d=still here q0")
	before.leave()

	// The session that cannot be stored has one property more.
	c = kept("b")
	c.Properties.MaximumPacketSize = 16
	s.store.failWith(errors.New("no"))
	w = s.dial(packet.V5)
	w.send(&c)
	w.expect("CONNACK "+packet.PacketTooLarge.String(), "closed")
	s.store.failWith(nil)

	c = kept("a")
	c.Properties.MaximumPacketSize = 30
	w = s.again(packet.V5, c)
	var filters []packet.Subscription
	names := []string{"d"}
	for i := range 30 {
		filters = append(filters, filter(fmt.Sprint("e/", i), 0))
		names = append(names, filters[i].Filter)
	}
	for _, p := range []encoder{subscribe(2, filters...), &packet.Unsubscribe{ID: 3, Filters: names}} {
		w.send(p)
		w.expect("DISCONNECT "+packet.PacketTooLarge.String(), "closed")
		w = s.again(packet.V5, c)
	}
	pub := s.connect(packet.V5, clean("pub"))
	pub.send(publish("e/1", "x", 1, 1), publish("d", "y", 1, 2))
	pub.expect("PUBACK 1 "+packet.NoMatchingSubscribers.String(), "PUBACK 2")
	w.expect("PUBLISH d=y q1 id1")
}

// A CONNECT that is larger than its listener allows is told so in its version, before it has come, and
// however it is cut.
func TestConnectTooLarge(t *testing.T) {
	s := start(t, nil, broker.Limits{PacketSize: 1 << 10})
	c := clean(strings.Repeat("x", 2<<10))
	for _, v := range []packet.Version{packet.V31, packet.V311, packet.V5} {
		b := c.Append(nil, v)
		for _, cut := range []int{3, 5, 9, 10, len(b)} {
			w := s.dial(v)
			w.raw(b[:cut])
			if cut < 10 {
				w.raw(b[cut:20])
			}
			if v == packet.V5 {
				w.expect("CONNACK " + packet.PacketTooLarge.String())
			}
			w.expect("closed")
		}
	}
	for _, foreign := range []string{"\x10\xff\x7f\x00\x04HTTP\x05", "\x10\xff\x7f\x00\x04MQTT\x07", "\x10\xff\x7f\xff\xff\xff\xff\xff\xff\xff"} {
		w := s.dial(packet.V5)
		w.raw([]byte(foreign))
		w.expect("closed")
	}
}

// Of every failure that an acknowledgement may tell of on its own something can be said.
func TestFailuresHaveReasons(t *testing.T) {
	for _, reason := range []packet.ReasonCode{packet.QuotaExceeded, packet.ImplementationSpecificError, packet.PacketIDNotFound, packet.UnspecifiedError} {
		if broker.Explain(reason) == "" {
			t.Errorf("nothing is said of %s", reason)
		}
	}
	if text := broker.Explain(packet.NoMatchingSubscribers); text != "" {
		t.Errorf("%q is said of what is no failure", text)
	}
}

// What a CONNECT leaves with the gateway is bounded.
func TestConnectLimits(t *testing.T) {
	s := start(t, nil, broker.Limits{ClientIDBytes: 30, WillBytes: 1000, TopicLevels: 4, TopicBytes: 100})
	will := func(topic string, size int) *packet.Will {
		return &packet.Will{Topic: topic, Payload: make([]byte, size)}
	}
	for _, tt := range []struct {
		c    packet.Connect
		want packet.ReasonCode
	}{
		{clean(strings.Repeat("x", 30)), packet.Success},
		{clean(strings.Repeat("x", 31)), packet.ClientIDNotValid},
		{packet.Connect{ClientID: "c", Will: will("a", 900)}, packet.Success},
		{packet.Connect{ClientID: "c", Will: will("a", 1000)}, packet.QuotaExceeded},
		{packet.Connect{ClientID: "c", Will: will("a/b/c/d", 0)}, packet.Success},
		{packet.Connect{ClientID: "c", Will: will("a/b/c/d/e", 0)}, packet.TopicNameInvalid},
		{packet.Connect{ClientID: "c", Will: will(strings.Repeat("x", 101), 0)}, packet.TopicNameInvalid},
	} {
		w := s.dial(packet.V5)
		w.send(&tt.c)
		w.expect("CONNACK " + tt.want.String())
	}
}

// The subscriptions of all clients together are bounded, and what one gives back another may use.
func TestSubscriptionBytes(t *testing.T) {
	s := start(t, nil, broker.Limits{SubscriptionBytes: 100 << 10})
	granted, refused := "SUBACK 1 ["+packet.Success.String()+"]", "SUBACK 1 ["+packet.QuotaExceeded.String()+"]"
	var clients []*wire
	total := 0
	for i := range 3 {
		w := s.connect(packet.V5, clean(fmt.Sprint("c", i)))
		clients = append(clients, w)
		for j := range 5 {
			w.send(subscribe(1, filter(fmt.Sprintf("%d/%d/%s", i, j, strings.Repeat("x/", 100)), 0)))
			if got := w.read(); got == granted {
				total++
			} else if got != refused {
				t.Fatal(got)
			}
		}
	}
	if total < 4 || total > 8 {
		t.Errorf("%d subscriptions of 16 KB are within 100 KB", total)
	}
	if s.server.Stats().Limits.Of("subscriptions_size") == 0 {
		t.Error("it is not counted")
	}
	_ = clients[0].nc.Close()
	eventually(t, "there is room again", func() bool {
		clients[2].send(subscribe(1, filter("2/again/"+strings.Repeat("x/", 100), 0)))
		return clients[2].read() == granted
	})
}

// Topics of many levels cost more than their bytes.
func TestRetainedLevels(t *testing.T) {
	s := start(t, nil, broker.Limits{RetainedBytes: 1 << 20})
	w := s.connect(packet.V5, clean("c"))
	kept := 0
	for i := range uint16(100) {
		w.send(retain(fmt.Sprint(i, strings.Repeat("/x", 120)), "x", 1, i+1))
		if !strings.HasSuffix(w.read(), packet.QuotaExceeded.String()) {
			kept++
		}
	}
	if kept < 10 || kept > 25 {
		t.Errorf("%d topics of 121 levels are within 1 MiB", kept)
	}
}
