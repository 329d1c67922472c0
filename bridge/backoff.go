package bridge

import (
	"math/rand/v2"
	"time"
)

// A backoff spaces the tries to connect: a random time up to a bound that doubles with each
// failure ("full jitter"), so that many gateways do not come back at the same moment.
type backoff struct {
	min, max time.Duration
	bound    time.Duration
	random   func(int64) int64 // below n; nil: rand.Int64N
}

// next returns how long to wait now.
func (b *backoff) next() time.Duration {
	b.bound = max(b.min, min(2*b.bound, b.max))
	random := rand.Int64N
	if b.random != nil {
		random = b.random
	}
	return time.Duration(random(int64(b.bound) + 1))
}

// reset begins again with the shortest wait.
func (b *backoff) reset() { b.bound = 0 }
