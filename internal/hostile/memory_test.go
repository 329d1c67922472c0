package hostile

import (
	"testing"
	"time"

	"gateway/broker/packet"
)

// What the limits allow all clients together may be more than there is: then limits.memory holds.
// Those who cause it are the ones who lose, and good clients notice nothing.
func TestMemory(t *testing.T) {
	limits := small
	limits.Memory, limits.OutBytes, limits.WriteTime = 64<<20, 4<<20, time.Minute
	s := start(t, limits, "")
	good := s.couple(1, 0)
	a := &attack{site: s, light: true}
	t.Cleanup(a.leave)
	for i := range 60 { // four times what there is
		a.join(packet.V5, name("slow", i)).say(subscribe(0, "flood/#"))
	}
	pub := a.join(packet.V311, "flooder")
	message := publish("flood/x", 0, 0, make([]byte, 10<<10)).Append(nil, packet.V311)
	most := int64(0)
	flood := func(n int) {
		for range n {
			if !pub.raw(message) {
				t.Fatal("the flood is not taken")
			}
		}
		pub.sync()
		most = max(most, s.counter("Memory"))
	}
	eventually(t, "memory is scarce", func() bool { flood(20); return s.lines("memory is scarce") > 0 })
	flood(200)
	most = max(most, int64(inUse()))
	t.Logf("%d KiB in use at most, %d clients disconnected, %d messages dropped", most>>10, s.counter("Relieved"), s.counter("Dropped"))
	if most > int64(limits.Memory) {
		t.Errorf("%d KiB are in use, the limit is %d KiB", most>>10, limits.Memory>>10)
	}
	eventually(t, "a new client is told", func() bool { // unless the kernel has just taken enough away
		flood(20)
		_, reason := a.connect(packet.V5, packet.Connect{ClientID: "late", CleanStart: true})
		return reason == packet.QuotaExceeded
	})
	good.settle()
	a.leave()
	eventually(t, "a new client is let in", func() bool {
		_, reason := a.connect(packet.V5, packet.Connect{ClientID: "late", CleanStart: true})
		return reason == packet.Success
	})
	good.leave()
}
