package broker_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"gateway/broker"
	"gateway/broker/packet"
)

// spread publishes rounds of messages from clients of the names pub0 to pub29, and returns which member got
// those of each. It fails when that is more than one, or they are not in order.
func spread(s *site, members map[string]*wire, rounds int) map[string]string {
	s.t.Helper()
	const publishers = 30
	for p := range publishers {
		pub := s.connect(packet.V5, clean(fmt.Sprint("pub", p)))
		for n := range rounds {
			pub.send(publish(fmt.Sprint("t/", n), fmt.Sprintf("pub%d %d", p, n), 1, uint16(n+1)))
			pub.expect(fmt.Sprintf("PUBACK %d", n+1))
		}
		pub.leave()
	}
	of, next := make(map[string]string), make(map[string]int)
	for id, w := range members {
		w.send(&packet.Ping{Type: packet.PINGREQ})
		for got := w.read(); got != "PINGRESP"; got = w.read() {
			var topic, publisher string
			var n, packetID int
			text := strings.NewReplacer("=", " ", "q1 id", "").Replace(got)
			if _, err := fmt.Sscanf(text, "PUBLISH %s %s %d %d", &topic, &publisher, &n, &packetID); err != nil {
				s.t.Fatalf("%s got %q: %v", id, got, err)
			}
			w.send(ack(packet.PUBACK, uint16(packetID)))
			if had := of[publisher]; had != "" && had != id {
				s.t.Errorf("messages of %s go to %s and to %s", publisher, had, id)
			}
			if n != next[publisher] {
				s.t.Errorf("message %d of %s comes before %d", n, publisher, next[publisher])
			}
			of[publisher], next[publisher] = id, n+1
		}
		w.silent() // the acknowledgements are known
	}
	for p := range publishers {
		if n := next[fmt.Sprint("pub", p)]; n != rounds {
			s.t.Errorf("%d messages of pub%d have come, not %d", n, p, rounds)
		}
	}
	return of
}

// By sender, all messages of a publisher go to one member, whatever their topics, also after a restart. When a
// member is away or ends, only what it has moves, and comes back with it.
func TestSharedBySender(t *testing.T) {
	begin := func(store *memory) *site { return startWith(t, store, broker.Options{ShareBySender: true}) }
	s := begin(nil)
	members := make(map[string]*wire)
	for _, id := range []string{"m1", "m2", "m3"} {
		members[id] = s.joined(kept(id), filter("$share/g/t/#", 1))
	}
	of := spread(s, members, 3)
	has := make(map[string]int)
	for _, id := range of {
		has[id]++
	}
	if len(has) != 3 || min(has["m1"], has["m2"], has["m3"]) < 3 {
		t.Errorf("publishers are spread over the members as %v", has)
	}
	moved := func(gone string, now map[string]string) {
		t.Helper()
		for publisher, id := range now {
			if was := of[publisher]; was != id && was != gone || id == gone {
				t.Errorf("without %s messages of %s go to %s, not to %s", gone, publisher, id, was)
			}
		}
	}

	members["m2"].leave()
	delete(members, "m2")
	moved("m2", spread(s, members, 2))
	members["m2"] = s.again(packet.V5, kept("m2"))
	if now := spread(s, members, 2); !maps.Equal(now, of) {
		t.Errorf("after m2 has come back: %v, not %v", now, of)
	}

	members["m3"].send(&packet.Disconnect{HasSessionExpiry: true})
	members["m3"].expect("closed")
	delete(members, "m3")
	moved("m3", spread(s, members, 2))

	s.stop()
	s = begin(s.store)
	for id := range members {
		members[id] = s.again(packet.V5, kept(id))
	}
	members["m3"] = s.joined(kept("m3"), filter("$share/g/t/#", 1))
	if now := spread(s, members, 2); !maps.Equal(now, of) {
		t.Errorf("after a restart: %v, not %v", now, of)
	}
}
