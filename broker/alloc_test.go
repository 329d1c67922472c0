//go:build !race

// The race detector throws away a part of what is put into a sync.Pool.

package broker_test

import (
	"fmt"
	"io"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
)

// A QoS 0 message costs no memory on its way from one connection to others, whether it comes alone
// or with many. The clients here allocate nothing either.
func TestMessageAllocates(t *testing.T) {
	user := &packet.PublishProperties{User: []packet.UserProperty{{Name: "site", Value: "north"}}}
	for _, tt := range []struct {
		name       string
		v          packet.Version
		properties *packet.PublishProperties
		alias      bool   // the publisher gives its topic one
		aliases    uint16 // that a subscriber takes
		id         uint32 // of its subscriptions
		want       float64
	}{
		{name: "3.1.1", v: packet.V311},
		{name: "5.0", v: packet.V5},
		{name: "5.0, subscription identifier", v: packet.V5, id: 7},
		{name: "5.0, topic alias to the broker", v: packet.V5, alias: true},
		{name: "5.0, topic alias from the broker", v: packet.V5, aliases: 10},
		{name: "5.0, both", v: packet.V5, alias: true, aliases: 10, id: 7},
		{name: "5.0, user property", v: packet.V5, properties: user, want: 3}, // a list with a name and a value
	} {
		for _, together := range []int{1, 50, 1000} {
			t.Run(fmt.Sprintf("%s, %d together", tt.name, together), func(t *testing.T) {
				s := start(t, nil, broker.Limits{})
				const topic = "greenhouse/air"
				m := packet.Publish{Topic: topic, Payload: make([]byte, 100), Properties: tt.properties}
				publisher := s.connect(tt.v, clean("publisher"))
				if tt.alias {
					m.Properties = &packet.PublishProperties{TopicAlias: 1}
					publisher.send(&m)
					m.Topic = ""
					publisher.silent()
				}
				var subscribers []*wire
				for i := range 3 {
					c := clean(fmt.Sprint("subscriber", i))
					c.Properties.TopicAliasMaximum = tt.aliases
					w := s.connect(tt.v, c)
					both := subscribe(1, filter("greenhouse/+", 0), filter(topic, 1))
					both.SubscriptionID = tt.id
					w.send(both)
					w.expect("SUBACK 1…")
					subscribers = append(subscribers, w)
				}
				publisher.send(&m)
				for _, w := range subscribers {
					w.expect("PUBLISH…")
				}
				publisher.send(&m)
				size := subscribers[0].frameSize()
				for _, w := range subscribers[1:] {
					w.frame()
				}
				var messages []byte
				for range together {
					messages = m.Append(messages, tt.v)
				}
				got := make([]byte, together*size)
				pass := func() {
					publisher.raw(messages)
					for _, w := range subscribers {
						if _, err := io.ReadFull(w.nc, got); err != nil {
							t.Fatal(err)
						}
					}
				}
				for _, w := range append(subscribers, publisher) {
					_ = w.nc.SetDeadline(time.Now().Add(30 * time.Second))
				}
				for range 100 {
					pass() // what is made once is there
				}
				if n := testing.AllocsPerRun(2000/min(together, 100), pass) / float64(together); n > tt.want {
					t.Errorf("%v allocations for a message to 3 subscribers, want %v", n, tt.want)
				}
			})
		}
	}
}

// frameSize reads a packet and returns how many bytes it has.
func (w *wire) frameSize() int {
	_, body := w.frame()
	return 2 + len(body) // small enough
}
