package broker_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
)

// A client that asks and does not take the answers is not read for ever: it costs bounded memory.
func TestAnswersThatAreNotTaken(t *testing.T) {
	s := start(t, nil, broker.Limits{OutBytes: 4 << 10})
	for _, tt := range []struct {
		name    string
		ask     encoder
		answers string
	}{
		{"PINGREQ", &packet.Ping{Type: packet.PINGREQ}, "PINGRESP"},
		{"SUBSCRIBE", subscribe(1, filter("a", 0)), "SUBACK 1…"},
		{"UNSUBSCRIBE", &packet.Unsubscribe{ID: 1, Filters: []string{"a"}}, "UNSUBACK 1…"},
		{"PUBREL", ack(packet.PUBREL, 1), "PUBCOMP 1…"},
		{"PUBREC", ack(packet.PUBREC, 1), "PUBREL 1…"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := s.pipe(packet.V5, nil)
			w.t = t
			c := clean(tt.name)
			w.send(&c)
			w.expect("CONNACK…")
			ask := tt.ask.Append(nil, packet.V5)
			chunk := bytes.Repeat(ask, 1024/len(ask))
			sent := 0
			for sent < 1<<20 {
				_ = w.nc.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
				n, err := w.nc.Write(chunk)
				sent += n
				if errors.Is(err, os.ErrDeadlineExceeded) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if sent >= 1<<20 {
				t.Fatalf("%d bytes were taken without an end", sent)
			}
			for range sent / len(ask) {
				w.expect(tt.answers)
			}
		})
	}
}

// What the reader of a connection waits for may never come: its end must come to it then.
func TestEndWhileTheDiskIsSlow(t *testing.T) {
	s := start(t, nil, broker.Limits{Connections: 2, ReceiveMaximum: 5})
	sub := s.connect(packet.V311, kept("sub"))
	sub.send(subscribe(1, filter("d", 1)))
	sub.expect("SUBACK…")
	pub := s.connect(packet.V311, kept("pub"))
	s.store.pause(true)
	for id := range uint16(200) {
		pub.send(publish("d", "x", 1, id+1))
	}
	_ = pub.nc.Close()
	s.store.failWith(errors.New("no")) // which ends the connection from the other side too
	s.store.pause(false)
	for deadline := time.Now().Add(5 * time.Second); ; {
		w := s.dial(packet.V311)
		c := clean("next")
		_, _ = w.nc.Write(c.Append(nil, packet.V311))
		if w.read() == "CONNACK Success" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the connection is still there")
		}
	}
}

// [MQTT-3.1.2-22]: the time for which the client was not read is not its silence.
func TestKeepAliveWhileTheDiskIsSlow(t *testing.T) {
	s := start(t, nil, broker.Limits{ReceiveMaximum: 2})
	sub := s.connect(packet.V311, kept("sub"))
	sub.send(subscribe(1, filter("d", 1)))
	sub.expect("SUBACK…")
	c := clean("pub")
	c.KeepAlive = 1
	pub := s.connect(packet.V311, c)
	s.store.pause(true)
	for id := range uint16(5) { // one more than are taken
		pub.send(publish("d", "x", 1, id+1))
	}
	time.AfterFunc(time.Second, func() { _, _ = pub.nc.Write([]byte{0xC0, 0}) })
	if got := pub.readWithin(1700 * time.Millisecond); got != "nothing" {
		t.Fatal(got)
	}
	s.store.pause(false)
	for range 6 {
		if got := pub.read(); got == "closed" || got == "nothing" {
			t.Fatal(got)
		}
	}
}

// A publisher that waits for room in the store keeps nobody waiting to whom its messages go without it.
func TestPublisherWaitsForStore(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	live, durable, pub := s.connect(packet.V5, clean("live")), s.connect(packet.V5, kept("durable")), s.connect(packet.V5, clean("pub"))
	for _, w := range []*wire{live, durable} {
		w.send(subscribe(1, filter("t", 1)))
		w.expect("SUBACK 1…")
	}
	s.store.crowd(true)
	defer s.store.crowd(false)
	pub.send(publish("t", "x", 1, 1))
	live.expect("PUBLISH t=x q1 id1")
	live.silent()
	s.store.crowd(false)
	durable.expect("PUBLISH t=x q1 id1")
	pub.expect("PUBACK 1")
}

// A client may take its time, as long as it takes something.
func TestSlowButSteadyClient(t *testing.T) {
	s := start(t, nil, broker.Limits{WriteTime: 400 * time.Millisecond})
	w := s.pipe(packet.V5, nil)
	c := clean("slow")
	w.send(&c)
	w.expect("CONNACK…")
	w.send(subscribe(1, filter("d", 0)))
	w.expect("SUBACK…")
	pub := s.connect(packet.V5, clean("pub"))
	const size = 64 << 10
	pub.send(publish("d", string(make([]byte, size)), 0, 0))
	part := make([]byte, 4<<10)
	for got := 0; got < size; {
		time.Sleep(50 * time.Millisecond) // 80 KB a second
		n, err := io.ReadFull(w.nc, part[:min(len(part), size-got)])
		if got += n; err != nil {
			t.Fatalf("after %d bytes: %v", got, err)
		}
	}
}

// The gateway stops within two seconds, whoever takes nothing any more.
func TestCloseWithStuckClients(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	config := selfSigned(t)
	for i := range 4 {
		w := s.pipe(packet.V5, nil)
		if i%2 == 0 {
			w = s.pipe(packet.V5, config)
		}
		c := clean(fmt.Sprint(i))
		w.send(&c)
		w.expect("CONNACK…")
		w.send(subscribe(1, filter("d", 0)))
		w.expect("SUBACK…")
	}
	pub := s.connect(packet.V5, clean("pub"))
	pub.send(publish("d", string(make([]byte, 100<<10)), 0, 0))
	pub.silent()
	begin := time.Now()
	s.stop()
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("Close took %v", d)
	}
}
