package broker_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
)

// The properties of a message, and the identifiers of the subscriptions that it matches, are lent while
// it is routed. Who keeps it keeps its own: a queue in the store or in memory, the retained messages, a
// client in the process.
func TestWhatIsLentIsNotKept(t *testing.T) {
	s := start(t, nil, broker.Limits{Inflight: 1})
	subscribed := func(w *wire) *wire {
		for id, f := range []packet.Subscription{filter("a/+", 1), filter("a/#", 1), filter("+/0", 0)} {
			p := subscribe(1, f)
			p.SubscriptionID = uint32(id + 1)
			w.send(p)
			w.expect("SUBACK 1…")
		}
		return w
	}
	subscribed(s.connect(packet.V5, kept("away"))).leave()
	waits := subscribed(s.connect(packet.V5, clean("waits")))
	own, err := s.server.Connect(broker.ClientOptions{ID: "$own", CleanStart: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = own.Close() }()
	if _, err := own.Subscribe(packet.Subscribe{Filters: []packet.Subscription{filter("a/+", 0)}, SubscriptionID: 9}); err != nil {
		t.Fatal(err)
	}
	const n = 20
	pub := s.connect(packet.V5, clean("pub"))
	var messages []encoder
	for i := range n {
		p := retain(fmt.Sprint("a/", i), "x", 1, uint16(i+1))
		p.Properties = &packet.PublishProperties{HasMessageExpiry: i%2 == 0, MessageExpiry: 1000, User: []packet.UserProperty{{Name: "i", Value: fmt.Sprint(i)}}}
		if i%2 != 0 {
			p.Properties.MessageExpiry = 0
		}
		messages = append(messages, p)
	}
	pub.send(messages...)
	for i := range n {
		pub.expect(fmt.Sprint("PUBACK ", i+1))
	}
	check := func(who string, i int, p *packet.Publish, ids int) {
		t.Helper()
		x := p.Properties
		if p.Topic != fmt.Sprint("a/", i) || x == nil || len(x.User) != 1 || x.User[0].Value != fmt.Sprint(i) || x.HasMessageExpiry != (i%2 == 0) {
			t.Fatalf("%s gets %s with %+v, want what was sent with a/%d", who, p.Topic, x, i)
		}
		sum := 0
		for _, id := range x.SubscriptionIDs {
			sum += int(id)
		}
		if sum != ids {
			t.Fatalf("%s gets %s with the identifiers %v, want those with the sum %d", who, p.Topic, x.SubscriptionIDs, ids)
		}
	}
	away := s.again(packet.V5, kept("away"))
	for i := range n {
		ids := 1 + 2
		if i == 0 {
			ids += 3
		}
		for who, w := range map[string]*wire{"away": away, "waits": waits} {
			h, body := w.frame()
			p, err := w.dec.Publish(h.Flags, body)
			if err != nil {
				t.Fatal(err)
			}
			check(who, i, &p, ids)
			w.send(ack(packet.PUBACK, p.ID))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		p, _, err := own.Next(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		check("the client in the process", i, &p, 9)
	}
	late := s.connect(packet.V5, clean("late"))
	late.send(subscribe(1, filter("a/#", 0)))
	late.expect("SUBACK 1…")
	seen := 0
	for range n {
		h, body := late.frame()
		p, err := late.dec.Publish(h.Flags, body)
		if err != nil {
			t.Fatal(err)
		}
		var i int
		if _, err := fmt.Sscanf(p.Topic, "a/%d", &i); err != nil {
			t.Fatal(err)
		}
		check("late", i, &p, 0)
		seen += i
	}
	if seen != n*(n-1)/2 {
		t.Errorf("not every retained message came: %d", seen)
	}
}
