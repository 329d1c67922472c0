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
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		for _, together := range []int{1, 50, 1000} {
			t.Run(fmt.Sprintf("level %d, %d together", v, together), func(t *testing.T) {
				s := start(t, nil, broker.Limits{})
				var subscribers []*wire
				for i := range 3 {
					w := s.connect(v, clean(fmt.Sprint("subscriber", i)))
					w.send(subscribe(1, filter("a/+", 0), filter("a/b", 1)))
					w.expect("SUBACK 1…")
					subscribers = append(subscribers, w)
				}
				publisher := s.connect(v, clean("publisher"))
				m := packet.Publish{Topic: "a/b", Payload: make([]byte, 100)}
				var messages []byte
				for range together {
					messages = m.Append(messages, v)
				}
				got := make([]byte, len(messages))
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
				if n := testing.AllocsPerRun(1000, pass); n > 0 {
					t.Errorf("%v allocations for %d messages to 3 subscribers, want none", n, together)
				}
			})
		}
	}
}
