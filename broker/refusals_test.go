package broker_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
)

// Each limit that refuses something counts it, and no other limit does.
func TestRefusalsAreCounted(t *testing.T) {
	hello := func(s *site, c packet.Connect) {
		w := s.dial(packet.V5)
		w.send(&c)
		w.read()
	}
	say := func(s *site, packets ...encoder) {
		w := s.connect(packet.V5, clean("c"))
		w.send(packets...)
		w.read()
	}
	long := strings.Repeat("x", 100)
	for limit, tt := range map[string]struct {
		limits  broker.Limits
		provoke func(*site)
	}{
		"connections":     {broker.Limits{Connections: 1}, func(s *site) { s.dial(packet.V5); s.dial(packet.V5).read() }},
		"handshakes":      {broker.Limits{Handshakes: 1}, func(s *site) { s.dial(packet.V5); s.dial(packet.V5).read() }},
		"connect_timeout": {broker.Limits{ConnectTime: 20 * time.Millisecond}, func(s *site) { s.dial(packet.V5).read() }},
		"sessions": {broker.Limits{Sessions: 1}, func(s *site) {
			s.connect(packet.V5, clean("a"))
			hello(s, clean("b"))
		}},
		"client_id_size": {broker.Limits{ClientIDBytes: 23}, func(s *site) { hello(s, clean(long)) }},
		"will_size": {broker.Limits{WillBytes: 50}, func(s *site) {
			c := clean("c")
			c.Will = &packet.Will{Topic: "t", Payload: []byte(long)}
			hello(s, c)
		}},
		"packet_size": {broker.Limits{PacketSize: 90}, func(s *site) { say(s, publish("t", long, 0, 0)) }},
		"properties": {broker.Limits{}, func(s *site) {
			p := publish("t", "", 0, 0)
			p.Properties = &packet.PublishProperties{User: make([]packet.UserProperty, packet.MaxProperties+1)}
			say(s, p)
		}},
		"filters": {broker.Limits{}, func(s *site) {
			say(s, subscribe(1, slices.Repeat([]packet.Subscription{filter("t", 0)}, packet.MaxFilters+1)...))
		}},
		"receive_maximum": {broker.Limits{ReceiveMaximum: 1}, func(s *site) {
			w := s.connect(packet.V5, clean("c"))
			w.send(publish("t", "", 2, 1), publish("t", "", 2, 2))
			w.read()
			w.read()
		}},
		"topic_size":         {broker.Limits{TopicBytes: 50}, func(s *site) { say(s, publish(long, "", 0, 0)) }},
		"topic_levels":       {broker.Limits{TopicLevels: 4}, func(s *site) { say(s, subscribe(1, filter("a/b/c/d/e", 0))) }},
		"subscriptions":      {broker.Limits{Subscriptions: 1}, func(s *site) { say(s, subscribe(1, filter("a", 0), filter("b", 0))) }},
		"subscriptions_size": {broker.Limits{SubscriptionBytes: 10}, func(s *site) { say(s, subscribe(1, filter("a", 0))) }},
		"retained_size": {broker.Limits{RetainedBytes: 10}, func(s *site) {
			p := publish("t", "x", 1, 1)
			p.Retain = true
			say(s, p)
		}},
		"topic_aliases_size": {broker.Limits{AliasBytes: 1000}, func(s *site) {
			p := publish(strings.Repeat("x", 600), "", 0, 0)
			p.Properties = &packet.PublishProperties{TopicAlias: 1}
			q := publish(strings.Repeat("y", 600), "", 0, 0)
			q.Properties = &packet.PublishProperties{TopicAlias: 2}
			say(s, p, q)
		}},
	} {
		t.Run(limit, func(t *testing.T) {
			s := start(t, nil, tt.limits)
			tt.provoke(s)
			counted := s.server.Refusals()
			eventually(t, "it is counted", func() bool { return counted()["refused/"+limit] == 1 })
			for other, n := range counted() {
				if n != 0 && other != "refused/"+limit {
					t.Errorf("%s is %d", other, n)
				}
			}
			if n := s.server.Stats().Unstored.Load(); n != 0 {
				t.Errorf("store/refused is %d", n)
			}
		})
	}
}
