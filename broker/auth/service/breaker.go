package service

import (
	"sync"
	"time"
)

// When a question is not asked any more.
const (
	breakAfter = 5                // failures in a row
	breakLeast = time.Second      // the first pause, doubled after each trial that fails
	breakMost  = 30 * time.Second // the longest
)

// A breaker spares a service that does not answer, and those who would wait for it. After some
// failures in a row nobody is let through for a while, then one as a trial. The zero value lets through.
type breaker struct {
	mu       sync.Mutex
	failures int
	until    time.Time // nobody is let through before
	pause    time.Duration
	trying   bool // one was let through after a pause, and is not back
}

// enter reports whether the service may be asked now. Whoever is let through tells result.
func (b *breaker) enter() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < breakAfter {
		return true
	}
	if b.trying || time.Now().Before(b.until) {
		return false
	}
	b.trying = true
	return true
}

// result tells how it went. It returns whether the state of the service has changed by that.
func (b *breaker) result(ok bool) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	trial := b.trying
	b.trying = false
	if ok {
		changed = b.failures >= breakAfter
		b.failures, b.pause = 0, 0
		return changed
	}
	b.failures++
	if b.failures < breakAfter || b.failures > breakAfter && !trial {
		return false
	}
	changed = b.pause == 0
	b.pause = min(max(2*b.pause, breakLeast), breakMost)
	b.until = time.Now().Add(b.pause)
	return changed
}

// open reports whether the service has failed so often that it is not asked.
func (b *breaker) open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failures >= breakAfter
}
