package bridge

import (
	"testing"
	"testing/synctest"
	"time"
)

// Messages that are under way together have identifiers of their own, in every lane and around the
// end of a session's identifiers; none is that of a request, and none is 0 [MQTT-2.2.1-3].
func TestWireIDs(t *testing.T) {
	for _, first := range []int{0, 1, laneIDs - 500, 65_535 - 500, 65_534} {
		seen := make(map[uint16]bool)
		for lane := range MaxLanes {
			for n := range MaxWindow {
				local := uint16(1 + (first+n)%65_535)
				id := wireID(lane, local)
				if id == 0 || id >= requestIDs || seen[id] {
					t.Fatalf("lane %d, identifier %d is sent as %d, which is taken", lane, local, id)
				}
				seen[id] = true
			}
		}
	}
}

// A backlog leaves at the rate that is set, of messages and of bytes; without a rate it does not wait.
func TestReplayRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			rate     Rate
			messages int
			size     int
			want     time.Duration
		}{
			{Rate{}, 100_000, 1000, 0},
			{Rate{Messages: 50}, 500, 10, 10 * time.Second},
			{Rate{Bytes: 10_000}, 100, 1000, 10 * time.Second},
			{Rate{Bytes: 100}, 2, 1000, 20 * time.Second}, // one message is more than a second's bytes
			{Rate{Messages: 1000, Bytes: 1000}, 100, 100, 10 * time.Second},
		} {
			p := newPacer(tt.rate)
			begin := time.Now()
			for range tt.messages {
				if err := p.wait(t.Context(), tt.size); err != nil {
					t.Fatal(err)
				}
			}
			if took := time.Since(begin); took < tt.want*8/10 || took > tt.want*11/10 {
				t.Errorf("%+v: %d messages of %d bytes took %s, want %s", tt.rate, tt.messages, tt.size, took, tt.want)
			}
		}
	})
}
