package broker_test

import (
	"errors"
	"testing"

	"gateway/broker"
	"gateway/broker/packet"
)

// A subscription that the store does not take changes nothing: one that was there before keeps its options, as
// the SUBACK says and a restart finds it.
func TestUnstoredSubscriptions(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	sub := s.connect(packet.V5, kept("sub"))
	pub := s.connect(packet.V5, clean("pub"))
	for i, f := range []string{"a", "$share/g/b"} {
		sub.send(&packet.Subscribe{ID: 1, SubscriptionID: 7, Filters: []packet.Subscription{filter(f, 1)}})
		sub.expect("SUBACK 1 [Granted QoS 1]")
		s.store.failWith(errors.New("no"))
		sub.send(&packet.Subscribe{ID: 2, SubscriptionID: 8, Filters: []packet.Subscription{filter(f, 0), filter("new", 0), filter(f, 2)}})
		sub.expect("SUBACK 2 [Implementation specific error Implementation specific error Implementation specific error]")
		s.store.failWith(nil)
		name := []string{"a", "b"}[i]
		pub.send(publish(name, "x", 2, uint16(i+1)), publish("new", "x", 0, 0))
		sub.expect([]string{"PUBLISH a=x q1 id1 sub[7]", "PUBLISH b=x q1 id2 sub[7]"}[i])
		sub.silent()
	}
}
