package e2e

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// uplink is the section of the bridges from one gateway, by its number, to others.
func uplink(version, rule string, announce bool, from int, to ...*gateway) string {
	section := "bridges:\n"
	for i, g := range to {
		section += fmt.Sprintf(`  - name: next%d
    version: %s
    announce: %t
    url: mqtt://%s
    client_id: gateway-%[5]d-%[1]d
    backoff: {min: 100ms, max: 400ms}
    circle_limit: 20 # a turn may take 0.7 s on a busy machine
    rules: [{%[6]s}]
`, i, version, announce, g.address, from, rule)
	}
	return section
}

// TestLoops connects gateways so that their rules carry a message in a circle. It comes to all of
// them, and comes to rest.
func TestLoops(t *testing.T) {
	const both, out = "direction: both, filter: loop/#", "direction: out, filter: loop/#"
	for _, tt := range []struct {
		name     string
		gateways int
		connect  func(i int, all []*gateway) string // the bridges of gateway i
		most     int64                              // copies in all, of 10 messages
	}{
		{"two, each of which takes from the other what it sends", 2, func(i int, all []*gateway) string {
			return uplink("5.0", both, false, i, all[1-i])
		}, 10 * 40},
		{"a ring of three", 3, func(i int, all []*gateway) string {
			return uplink("5.0", out, false, i, all[(i+1)%3])
		}, 10 * 8},
		{"a ring of three that takes as well", 3, func(i int, all []*gateway) string {
			return uplink("5.0", both, false, i, all[(i+1)%3])
		}, 10 * 60},
		{"two of 3.1.1, each of which takes from the other what it sends", 2, func(i int, all []*gateway) string {
			return uplink("3.1.1", both, true, i, all[1-i])
		}, 10 * 2 * 2 * 25},
		{"a ring of three of 3.1.1", 3, func(i int, all []*gateway) string {
			return uplink("3.1.1", out, false, i, all[(i+1)%3])
		}, 10 * 3 * 25},
		{"a ring of three, one bridge of which is of 3.1.1", 3, func(i int, all []*gateway) string {
			return uplink([]string{"3.1.1", "5.0", "5.0"}[i], out, false, i, all[(i+1)%3])
		}, 10 * 3 * 25},
		{"three of 3.1.1, each of which takes from both others what it sends", 3, func(i int, all []*gateway) string {
			return uplink("3.1.1", both, true, i, all[(i+1)%3], all[(i+2)%3])
		}, 10 * 12 * 450},
		{"three, each of which takes from both others what it sends", 3, func(i int, all []*gateway) string {
			return uplink("5.0", both, false, i, all[(i+1)%3], all[(i+2)%3])
		}, 10 * 500},
		{"two over one bridge of 3.1.1", 2, func(i int, all []*gateway) string {
			if i == 1 {
				return ""
			}
			return uplink("3.1.1", both, true, i, all[1])
		}, 10 * 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			all := make([]*gateway, tt.gateways)
			for i := range all { // their addresses first
				all[i] = newGateway(t)
			}
			for i := range all {
				all[i].extend(tt.connect(i, all))
			}
			var copies atomic.Int64
			first := make([]atomic.Int64, tt.gateways) // gateway: copies there
			for i, g := range all {
				g.start()
				c := g.connect(client.Options{ClientID: "listener", KeepAlive: 60, Receive: func(packet.Publish) {
					copies.Add(1)
					first[i].Add(1)
				}})
				subscribe(t, c, "loop/#", 1)
			}
			source := all[0].connect(client.Options{ClientID: "source", KeepAlive: 60})
			// The bridges connect in their own time: what comes before is queued, in one direction.
			eventually(t, 20*time.Second, "a message reaches every gateway", func() bool {
				if _, err := source.Publish(t.Context(), packet.Publish{Topic: "loop/probe", QoS: 1, Payload: []byte("probe")}); err != nil {
					t.Fatal(err)
				}
				time.Sleep(200 * time.Millisecond) // the pace of the probes
				for i := range first {
					if first[i].Load() == 0 {
						return false
					}
				}
				return true
			})
			rest := func() {
				t.Helper()
				last, since := copies.Load(), time.Now()
				eventually(t, 20*time.Second, "rest", func() bool {
					if n := copies.Load(); n != last {
						last, since = n, time.Now()
					}
					return time.Since(since) > time.Second
				})
			}
			rest()
			copies.Store(0)
			for n := range 10 {
				if _, err := source.Publish(t.Context(), packet.Publish{Topic: "loop/a", QoS: 1, Payload: fmt.Append(nil, n)}); err != nil {
					t.Fatal(err)
				}
			}
			rest()
			n := copies.Load()
			t.Logf("10 messages came to %d gateways as %d copies", tt.gateways, n)
			if n < int64(10*tt.gateways) || n > tt.most {
				t.Errorf("%d copies, want %d to %d", n, 10*tt.gateways, tt.most)
			}
		})
	}
}
