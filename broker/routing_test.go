package broker

import (
	"fmt"
	"testing"

	"gateway/broker/packet"
)

// crowd subscribes n sessions, each with all of the filters. The identifier of a subscription is
// the place of its filter, from 1; its QoS is that place, too.
func crowd(n int, filters ...string) (*routes, []*Session) {
	t := new(routes)
	var sessions []*Session
	for range n {
		s := new(Session)
		sessions = append(sessions, s)
		for i, f := range filters {
			t.subscribe(s, packet.Subscription{Filter: f, QoS: packet.QoS(i)}, uint32(i+1))
		}
	}
	return t, sessions
}

// However many they are, each session gets the message once, at the highest QoS and with all
// identifiers of its subscriptions [MQTT-3.3.4-2], [MQTT-3.3.4-3]. Then the next message forgets it.
func TestHits(t *testing.T) {
	for _, n := range []int{1, 2, 16, 17, 100} {
		routes, sessions := crowd(n, "a/b", "a/+", "#")
		r := newRouting(nil, nil)
		for range 2 {
			r.begin(&packet.Publish{Topic: "a/b", QoS: 2})
			routes.match(r)
			if len(r.hits) != n {
				t.Fatalf("%d hits for %d sessions", len(r.hits), n)
			}
			got := make(map[*Session]hit)
			for _, h := range r.hits {
				got[h.s] = h
			}
			for i, s := range sessions {
				sum := uint32(0)
				for _, id := range got[s].ids {
					sum += id
				}
				if h := got[s]; h.qos != 2 || len(h.ids) != 3 || sum != 1+2+3 {
					t.Errorf("session %d of %d: QoS %d, identifiers %v, want QoS 2 and 1, 2, 3 in some order", i, n, h.qos, h.ids)
				}
			}
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, filters := range [][]string{{"a/b"}, {"a/b", "a/+"}} {
		for _, n := range []int{1000, 10_000} {
			b.Run(fmt.Sprintf("subscribers=%d,filters=%d", n, len(filters)), func(b *testing.B) {
				routes, _ := crowd(n, filters...)
				r, p := newRouting(nil, nil), &packet.Publish{Topic: "a/b"}
				b.ReportAllocs()
				for b.Loop() {
					r.begin(p)
					routes.match(r)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/subscriber")
			})
		}
	}
}
