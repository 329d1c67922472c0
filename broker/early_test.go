package broker_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
	"gateway/broker/session"
	"gateway/offline"
)

// hasty opens a broker that delivers before it commits.
func hasty(t *testing.T, path string, delay time.Duration) (*broker.Server, *offline.Store, func()) {
	t.Helper()
	store, err := offline.Open(path, offline.Options{CommitDelay: delay, TelemetryCommit: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	server, err := broker.New(broker.Options{Store: store, Early: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return server, store, func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}
}

func join(t *testing.T, s *broker.Server, id string, qos packet.QoS) *broker.Client {
	t.Helper()
	c, err := s.Connect(broker.ClientOptions{ID: id, SessionExpiry: broker.Never})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Subscribe(packet.Subscribe{Filters: []packet.Subscription{{Filter: "e", QoS: qos}}}); err != nil {
		t.Fatal(err)
	}
	return c
}

// With a receiver that acknowledges at once nothing is written, and the publisher does not wait for the
// delay. With one that does not, the acknowledgement means what it always does.
func TestEarlyDelivery(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	server, store, stop := hasty(t, path, 400*time.Millisecond)
	ctx := t.Context()
	r := join(t, server, "receiver", 1)
	from, err := server.Connect(broker.ClientOptions{ID: "publisher", CleanStart: true})
	if err != nil {
		t.Fatal(err)
	}
	commits, began := store.Stats().Commits, time.Now()
	answer := make(chan packet.ReasonCode, 1)
	publish := func(payload string) {
		from.Publish(packet.Publish{Topic: "e", QoS: 1, Payload: []byte(payload)}, func(r packet.ReasonCode) { answer <- r })
	}
	for i := range 50 {
		publish(fmt.Sprint(i))
		p, _, err := r.Next(ctx)
		if err != nil || string(p.Payload) != fmt.Sprint(i) {
			t.Fatalf("message %d is %s, %v", i, p.Payload, err)
		}
		select {
		case <-answer:
			t.Fatal("acknowledged before anybody had it for good")
		default:
		}
		r.Done(p.ID)
		if reason := <-answer; reason != packet.Success {
			t.Fatal(reason)
		}
	}
	if took, n := time.Since(began), store.Stats().Commits-commits; took > 5*time.Second || n > 1 {
		t.Errorf("50 messages took %v and %d commits", took, n)
	}
	// Not acknowledged by the receiver, which has gone: it is there after a restart.
	publish("unacknowledged")
	if _, _, err := r.Next(ctx); err != nil {
		t.Fatal(err)
	}
	r.Close()
	publish("away")
	for range 2 {
		if reason := <-answer; reason != packet.Success {
			t.Fatal(reason)
		}
	}
	stop()
	server, _, stop = hasty(t, path, time.Millisecond)
	defer stop()
	r = join(t, server, "receiver", 1)
	for _, want := range []string{"unacknowledged", "away"} {
		if p, _, err := r.Next(ctx); err != nil || string(p.Payload) != want {
			t.Errorf("%s, %v, want %s", p.Payload, err, want)
		}
	}
}

// Order, and at least once, for a receiver that comes and goes while messages at both QoS are published
// from several sides; at QoS 2 exactly once.
func TestEarlyOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	server, _, stop := hasty(t, path, 3*time.Millisecond)
	defer stop()
	join(t, server, "receiver", 2).Close()
	const publishers, each = 4, 400
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var wait sync.WaitGroup
	for p := range publishers {
		wait.Go(func() {
			from, err := server.Connect(broker.ClientOptions{ID: fmt.Sprint("publisher", p), CleanStart: true})
			if err != nil {
				t.Error(err)
				return
			}
			defer from.Close()
			answers := make(chan packet.ReasonCode, each)
			for i := range each {
				m := packet.Publish{Topic: "e", QoS: packet.QoS(1 + i%2), ID: uint16(1 + i), Payload: []byte{byte(p), byte(i >> 8), byte(i)}}
				from.Publish(m, func(r packet.ReasonCode) { answers <- r })
				if i%10 == 9 {
					for range 10 {
						<-answers
					}
				}
			}
		})
	}
	next, twos, total := [publishers]int{}, map[[2]int]int{}, 0
	for total < publishers*each {
		r := join(t, server, "receiver", 2)
		for range 1 + rand.IntN(60) {
			p, released, err := r.Next(ctx)
			if err != nil {
				t.Fatalf("after %d messages: %v", total, err)
			}
			if released {
				r.Done(p.ID)
				continue
			}
			from, n := int(p.Payload[0]), int(p.Payload[1])<<8|int(p.Payload[2])
			switch {
			case n == next[from]:
				next[from]++
				total++
			case n > next[from]:
				t.Fatalf("message %d of %d when it was the turn of %d", n, from, next[from])
			case !p.Dup:
				t.Fatalf("message %d of %d again, which is not marked", n, from)
			}
			if rand.IntN(20) == 0 {
				break // it goes without an acknowledgement
			}
			if p.QoS == 2 {
				if twos[[2]int{from, n}]++; twos[[2]int{from, n}] > 1 && !p.Dup {
					t.Fatalf("message %d of %d twice at QoS 2", n, from)
				}
				accepted := make(chan error, 1)
				r.Accepted(p.ID, func(err error) { accepted <- err })
				if err := <-accepted; err != nil {
					t.Fatal(err)
				}
			}
			r.Done(p.ID)
			if total == publishers*each {
				break
			}
		}
		r.Close()
	}
	wait.Wait()
}

// A client that is connected and takes nothing is bounded as any other.
func TestEarlyIsBounded(t *testing.T) {
	store, err := offline.Open(filepath.Join(t.TempDir(), "store"), offline.Options{CommitDelay: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	server, err := broker.New(broker.Options{Store: store, Early: true, Log: slog.New(slog.DiscardHandler),
		Queues: map[string]*session.Room{"receiver": {Quota: session.Quota{Messages: 20}}}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = server.Close(), store.Close() }()
	join(t, server, "receiver", 1)
	from, err := server.Connect(broker.ClientOptions{ID: "publisher", CleanStart: true})
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan packet.ReasonCode, 1)
	for range 100 {
		from.Publish(packet.Publish{Topic: "e", QoS: 1, Payload: []byte("m")}, func(r packet.ReasonCode) { answers <- r })
		<-answers
	}
	if n, _, _ := store.Count("receiver"); n != 20 || server.Stats().Dropped.Load() != 80 {
		t.Errorf("%d messages wait, %d were dropped", n, server.Stats().Dropped.Load())
	}
}

// After a receiver has paused for so long that messages had to be written, those of a stream that goes on
// come to be sent early again, and are not written.
func TestEarlyRecovers(t *testing.T) {
	server, store, stop := hasty(t, filepath.Join(t.TempDir(), "store"), 100*time.Millisecond)
	defer stop()
	join(t, server, "receiver", 1).Close()
	r, err := server.Connect(broker.ClientOptions{ID: "receiver", SessionExpiry: broker.Never, ReceiveMaximum: session.MaxWindow})
	if err != nil {
		t.Fatal(err)
	}
	from, err := server.Connect(broker.ClientOptions{ID: "publisher", CleanStart: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	wait.Go(func() { // 2,000 a second
		tick := time.NewTicker(time.Second / 2000)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				from.Publish(packet.Publish{Topic: "e", QoS: 1, Payload: []byte("m")}, func(packet.ReasonCode) {})
			case <-ctx.Done():
				return
			}
		}
	})
	var open []uint16
	take := func(behind int) { // acknowledges each message when so many others have come
		p, _, err := r.Next(ctx)
		if err != nil {
			t.Fatalf("the stream is still written: %v (%d behind)", err, behind)
		}
		for open = append(open, p.ID); len(open) > behind; open = open[1:] {
			r.Done(open[0])
		}
	}
	for before := store.Stats().Commits; store.Stats().Commits < before+3; {
		take(240) // 120 ms
	}
	for calm := 0; calm < 1000; {
		before := store.Stats().Commits
		take(50) // 25 ms
		if calm++; store.Stats().Commits != before {
			calm = 0
		}
	}
}
