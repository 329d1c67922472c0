package broker

import (
	"sync"
	"time"
)

// A notice is something for the log that hostile clients can bring about as often as they like. It
// is told at once, and from then on once a minute.
type notice struct {
	mu     sync.Mutex
	told   time.Time
	untold int
}

// noticePeriod is the least time between two lines about the same.
const noticePeriod = time.Minute

// due reports whether it is to be told now, and how often it was not told since the last time.
func (n *notice) due() (untold int, due bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.told.IsZero() && time.Since(n.told) < noticePeriod {
		n.untold++
		return 0, false
	}
	untold = n.untold
	n.told, n.untold = time.Now(), 0
	return untold, true
}
