package hostile

import (
	"fmt"
	"math"
	"runtime"
	"testing"

	"gateway/broker"
)

// attacks are the bad manners, with the limits that are not those of a small board.
var attacks = []struct {
	name   string
	limits func(*broker.Limits)
	run    func(*attack)
}{
	{"slow readers", nil, slowReaders},
	{"readers of nothing who ask for everything", nil, greedyReaders},
	{"pings without reading", anyRequests, pingsWithoutReading},
	{"pings without end", nil, pingsWithoutEnd},
	{"no acknowledgement", nil, noAcknowledgement},
	{"half packets", nil, halfPackets},
	{"dribblers before CONNECT", nil, dribblersBefore},
	{"dribblers after CONNECT", nil, dribblersAfter},
	{"random bytes", nil, randomBytes},
	{"takeover storm", nil, takeoverStorm},
	{"burst of connects", func(l *broker.Limits) { l.ConnectRate = 20_000 }, burst},
	{"sessions with random identifiers", nil, randomSessions},
	{"will bombs", nil, willBombs},
	{"topics of 64 KiB", func(l *broker.Limits) { l.PacketSize = 128 << 10 }, longTopics},
	{"topics of 64 KiB beyond the limit", func(l *broker.Limits) { l.PacketSize, l.TopicBytes = 128<<10, 1<<10 }, tooLongTopics},
	{"topics and filters of 128 levels", nil, deepTopics},
	{"wildcards that match in every way", nil, manyMatches},
	{"subscription bombs", nil, subscriptionBombs},
	{"subscription bombs at any rate", anyRequests, subscriptionBombs},
	{"endless retained topics", nil, endlessRetained},
	{"huge properties", nil, hugeProperties},
	{"QoS 2 never released", nil, neverReleased},
	{"QoS 2 never released, before 5.0", nil, neverReleasedBefore},
}

// anyRequests lets clients ask as fast as they can.
func anyRequests(l *broker.Limits) { l.RequestRate = 1e6 }

// Beside each attack good couples, at QoS 1 and 2, lose nothing. While the foes are still
// there memory is within the limits; when they have gone everything is as before.
func TestAttacks(t *testing.T) {
	for _, tt := range attacks {
		t.Run(tt.name, func(t *testing.T) {
			limits := small
			if tt.limits != nil {
				tt.limits(&limits)
			}
			s := start(t, limits, "")
			one, two := s.couple(1, 60), s.couple(2, 60)
			one.settle()
			two.settle()
			quiet, goroutines := inUse(), runtime.NumGoroutine()

			a := &attack{site: s, base: quiet, peak: math.MinInt64}
			t.Cleanup(a.leave)
			tt.run(a)
			a.weigh()
			if a.peak > 0 {
				t.Errorf("%d KiB more than before are in use under attack, %d KiB beyond the limits", a.used>>10, a.peak>>10)
			}
			if *measure {
				fmt.Printf("%-45s %6d KiB more in use under attack\n", tt.name, a.used>>10)
			}
			one.settle()
			two.settle()
			a.leave()
			eventually(t, "the foes' goroutines are gone", func() bool { return runtime.NumGoroutine() <= goroutines })
			one.leave()
			two.leave()
			s.stop()
		})
		if t.Failed() {
			continue
		}
		// The broker, its store and all that they held are garbage now.
		eventually(t, "the memory is free", func() bool { return inUse() < 16<<20 })
	}
}
