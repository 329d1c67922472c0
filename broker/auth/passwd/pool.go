package passwd

import (
	"context"
	"fmt"
	"runtime"

	"gateway/broker/auth"
)

// A Pool bounds what hashing passwords costs, however many clients log in: how many are hashed at a
// time, and how many clients wait for that. Hashes that need much memory are made one at a time.
type Pool struct {
	waiting chan struct{} // room for those who wait and those whose turn it is; when full, the next is refused
	turn    chan struct{} // room for those whose turn it is; when full, they wait
	large   chan struct{} // room for one that needs much memory
}

// largeMemory is how many KiB are much.
const largeMemory = 4 << 10

// NewPool returns a pool for so many hashes at a time, fewer than there are processors if these are more than
// one, and so many clients that wait.
func NewPool(workers, queue int) *Pool {
	return &Pool{make(chan struct{}, workers+queue), make(chan struct{}, workers), make(chan struct{}, 1)}
}

// do calls f, which hashes at a cost, when it is its turn. The error is ErrUnavailable if too many
// wait, or ctx's.
func (p *Pool) do(ctx context.Context, c cost, f func()) error {
	select {
	case p.waiting <- struct{}{}:
		defer func() { <-p.waiting }()
	default:
		return fmt.Errorf("%d passwords are being checked or wait for it: %w", cap(p.waiting), auth.ErrUnavailable)
	}
	turns := []chan struct{}{p.turn}
	if c.memory > largeMemory {
		turns = []chan struct{}{p.large, p.turn}
	}
	for _, turn := range turns {
		select {
		case turn <- struct{}{}:
			defer func() { <-turn }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f()
	if c.memory > largeMemory {
		// The collector alone would let the garbage of four or five of them come together.
		runtime.GC()
	}
	return nil
}
