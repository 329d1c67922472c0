package broker_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
	"gateway/broker/session"
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
	for id := range uint16(2) { // one more may have had room, as statistics come and go
		w.send(retain(fmt.Sprint("fresh", id), big, 1, id+1))
		w.expect(fmt.Sprintf("PUBACK %d %s", id+1, packet.NoMatchingSubscribers))
	}
	eventually(t, "those that have expired are gone from the store", func() bool {
		s.store.mu.Lock()
		defer s.store.mu.Unlock()
		return len(s.store.retained) == 2
	})
	w.send(subscribe(1, filter("#", 0)))
	w.expect("SUBACK 1…", "PUBLISH fresh…", "PUBLISH fresh…")
	w.silent()
}

// What has expired in the queue of a client that is away, or does not take more, makes room for others and is
// counted once, and nothing of it is delivered [MQTT-3.3.2-5].
func TestExpiredMessagesMakeRoom(t *testing.T) {
	for _, durable := range []bool{false, true} {
		l := &ledger{t: t, path: filepath.Join(t.TempDir(), "store"), limits: broker.Limits{QueueMessages: 10}}
		l.open()
		o := broker.ClientOptions{ID: "sub", ReceiveMaximum: 1}
		if durable {
			o.SessionExpiry = broker.Never
		}
		sub, err := l.server.Connect(o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sub.Subscribe(packet.Subscribe{Filters: []packet.Subscription{filter("t", 1)}}); err != nil {
			t.Fatal(err)
		}
		from := l.connect("pub")
		send := func(payload string, seconds uint32) {
			t.Helper()
			p, done := publish("t", payload, 1, 0), make(chan packet.ReasonCode, 1)
			if seconds > 0 {
				lasting(seconds, p)
			}
			if from.Publish(*p, func(r packet.ReasonCode) { done <- r }); <-done != packet.Success {
				t.Errorf("%s is refused", payload)
			}
		}
		send("first", 0)
		if durable { // its client leaves with the first one unacknowledged
			sub.Close()
		}
		for i := range 9 {
			send("short", uint32(1+i%2))
		}
		within, cancel := context.WithTimeout(t.Context(), 2100*time.Millisecond)
		_, _, _ = from.Next(within) // nothing comes
		cancel()
		for i := range 3 {
			send(fmt.Sprint("fresh", i), 0)
		}
		if durable {
			if sub, err = l.server.Connect(o); err != nil {
				t.Fatal(err)
			}
		}
		soon, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		for _, want := range []string{"first", "fresh0", "fresh1", "fresh2"} {
			p, _, err := sub.Next(soon)
			if err != nil || string(p.Payload) != want {
				t.Fatalf("durable %v: got %q, want %q; %v", durable, p.Payload, want, err)
			}
			sub.Done(p.ID)
		}
		if s := l.server.Stats(); s.Dropped.Load() != 0 || s.Expired.Load() != 9 || sub.Waiting() != 0 {
			t.Errorf("durable %v: %d dropped, %d expired, %d wait", durable, s.Dropped.Load(), s.Expired.Load(), sub.Waiting())
		}
		l.close()
	}
}

// What has expired goes though nothing needs the room, after a restart too.
func TestExpiredMessagesAreRemoved(t *testing.T) {
	l := &ledger{t: t, path: filepath.Join(t.TempDir(), "store")}
	l.open()
	away := l.connect("away")
	if _, err := away.Subscribe(packet.Subscribe{Filters: []packet.Subscription{filter("#", 1)}}); err != nil {
		t.Fatal(err)
	}
	away.Close()
	from := l.connect("pub")
	send := func(n int) {
		t.Helper()
		done := make(chan packet.ReasonCode, 1)
		for i := range n {
			if from.Publish(*lasting(1, retain(fmt.Sprint(i), "x", 1, 0)), func(r packet.ReasonCode) { done <- r }); <-done != packet.Success {
				t.Error("a message is refused")
			}
		}
	}
	expire := func(n int64) {
		t.Helper()
		within, cancel := context.WithTimeout(t.Context(), 1100*time.Millisecond)
		_, _, _ = from.Next(within) // nothing comes
		cancel()
		l.server.Trim()
		eventually(t, "nothing is in the store", func() bool {
			waiting, _, _ := l.store.Count("away")
			retained := 0
			if err := l.store.Restore(func(c session.Change) {
				if _, ok := c.(*session.Retained); ok {
					retained++
				}
			}); err != nil {
				t.Fatal(err)
			}
			return waiting == 0 && retained == 0 && l.server.Stats().Expired.Load() == n
		})
	}
	send(5)
	expire(5)
	send(3)
	l.close()
	l.open()
	defer l.close()
	from = l.connect("pub")
	expire(3)

	p := publish("kept", "x", 1, 0)
	done := make(chan packet.ReasonCode, 1)
	from.Publish(*p, func(r packet.ReasonCode) { done <- r })
	<-done
	if away, err := l.server.Connect(broker.ClientOptions{ID: "away", CleanStart: true}); err != nil || away.SessionPresent() {
		t.Errorf("connected: %v, session present", err)
	}
	if n := l.server.Stats().Dropped.Load(); n != 1 {
		t.Errorf("%d messages were dropped with the session, want 1: the others had expired", n)
	}
}
