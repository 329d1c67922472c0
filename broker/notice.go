package broker

import (
	"sync"
	"time"
)

// A notice is something for the log that hostile clients can bring about as often as they like. It
// is told at once, and from then on a few times a minute.
type notice struct {
	more int // lines a minute beyond the first

	mu     sync.Mutex
	told   time.Time // the first line of a minute
	lines  int       // since then
	untold int
}

// noticePeriod is the time in which there are only so many lines about the same.
const noticePeriod = time.Minute

// due reports whether it is to be told now, and how often it was not told since the last time.
func (n *notice) due() (untold int, due bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.told.IsZero() || time.Since(n.told) >= noticePeriod {
		n.told, n.lines = time.Now(), -1
	}
	if n.lines++; n.lines > n.more {
		n.untold++
		return 0, false
	}
	untold, n.untold = n.untold, 0
	return untold, true
}
