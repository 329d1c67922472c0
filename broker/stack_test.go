//go:build !race

// The race detector makes the frames of functions larger, so that there is nothing to measure.

package broker_test

import (
	"runtime"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
)

// Connections that rest have the smallest stacks there are.
func TestRestingStacks(t *testing.T) {
	const n = 400
	s := start(t, nil, broker.Limits{Handshakes: n})
	stacks := func() uint64 {
		runtime.GC() // gives stacks back that nobody uses
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.StackInuse
	}
	before := stacks()
	for i := range n {
		w := s.connect(packet.V311, clean("quiet"+string(rune('0'+i))))
		w.send(subscribe(1, filter("a/b", 1)))
		w.expect("SUBACK 1…")
	}
	const most = 3 << 10 // bytes of a connection
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		each := (int64(stacks()) - int64(before)) / n
		if each <= most {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes of stack for each connection, want %d at most", each, most)
		}
	}
}
