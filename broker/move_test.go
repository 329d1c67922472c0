package broker_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
)

// While subscriptions move between two sessions, each message goes to one of them, and each session
// has its share in order.
func TestMove(t *testing.T) {
	const messages = 3000
	s := start(t, nil, broker.Limits{})
	connect := func(id string) *broker.Client {
		c, err := s.server.Connect(broker.ClientOptions{ID: id, SessionExpiry: broker.Never})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	a, b, source := connect("$lane/a"), connect("$lane/b"), connect("source")
	subs := []packet.Subscription{filter("x/#", 1), filter("y", 1)}
	if _, err := a.Subscribe(packet.Subscribe{ID: 1, Filters: subs}); err != nil {
		t.Fatal(err)
	}
	published := make(chan struct{})
	go func() {
		for n := range messages {
			name := "y"
			var done func(packet.ReasonCode)
			if n%2 == 0 {
				name = "x/y"
			}
			if n == messages-1 { // the store has all before it, too
				done = func(packet.ReasonCode) { close(published) }
			}
			source.Publish(packet.Publish{Topic: name, QoS: 1, Payload: strconv.AppendInt(nil, int64(n), 10)}, done)
		}
	}()
	moves := 0
	for from, to := a, b; ; from, to = to, from {
		if err := from.Move(to, subs); err != nil {
			t.Fatal(err)
		}
		moves++
		if has, gone := to.Subscriptions(), from.Subscriptions(); len(has) != 2 || len(gone) != 0 {
			t.Fatalf("after the move %v and %v", has, gone)
		}
		select {
		case <-published:
		default:
			continue
		}
		break
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	seen := make(map[int]bool)
	shares := make(map[*broker.Client]int)
	for _, c := range []*broker.Client{a, b} {
		for last := -1; c.Waiting() > 0; {
			p, _, err := c.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			n, err := strconv.Atoi(string(p.Payload))
			if err != nil || seen[n] || n <= last {
				t.Fatalf("message %q after %d: err %v, seen %t", p.Payload, last, err, seen[n])
			}
			seen[n], last = true, n
			shares[c]++
			c.Done(p.ID)
		}
	}
	t.Logf("%d moves, shares of %d and %d", moves, shares[a], shares[b])
	if len(seen) != messages {
		t.Errorf("%d of %d messages are in the queues", len(seen), messages)
	}
}
