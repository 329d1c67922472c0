package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// A thrift gives memory back to the system that the gateway has needed for its work, once it rests.
// Otherwise that stays with the process for minutes, or for ever: the runtime keeps what it would need
// until the next run of the collector.
//
// It is woken by the runs of the collector alone, as there is nothing to give back without work.
type thrift struct {
	span  time.Duration // in which a gateway at rest allocates less than restBytes
	share int           // at most one part in so many of the time goes into giving back
}

const (
	restBytes  = 64 << 10
	worthBytes = 512 << 10 // what is worth giving back
)

// run gives back what the start has left, and then what comes with the work, until ctx ends.
func (t thrift) run(ctx context.Context) {
	collected := make(chan struct{}, 1) // full: it will be looked anyway
	tell(ctx, collected)
	for t.rest(ctx) {
		began := time.Now()
		if spare() >= worthBytes {
			debug.FreeOSMemory()
		}
		select {
		case <-time.After(time.Duration(t.share) * time.Since(began)):
		case <-ctx.Done():
		}
		select {
		case <-collected:
		case <-ctx.Done():
		}
	}
}

// tell tells of each run of the collector, until ctx ends.
func tell(ctx context.Context, collected chan<- struct{}) {
	runtime.AddCleanup(new([64]byte), func(collected chan<- struct{}) {
		select {
		case collected <- struct{}{}:
		default:
		}
		if ctx.Err() == nil {
			tell(ctx, collected)
		}
	}, collected)
}

// rest returns when next to nothing is done; false says that ctx has ended.
func (t thrift) rest(ctx context.Context) bool {
	for before := read("/gc/heap/allocs:bytes"); ; {
		select {
		case <-time.After(t.span):
		case <-ctx.Done():
			return false
		}
		now := read("/gc/heap/allocs:bytes")
		if now-before < restBytes {
			return true
		}
		before = now
	}
}

// spare returns how many bytes of the heap nobody uses, about, and the system has not got back.
func spare() uint64 {
	free, objects, live := read("/memory/classes/heap/free:bytes"), read("/memory/classes/heap/objects:bytes"), read("/gc/heap/live:bytes")
	return free + objects - min(objects, live)
}

func read(name string) uint64 {
	s := []metrics.Sample{{Name: name}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
