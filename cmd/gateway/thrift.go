package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"syscall"
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
		unmapProgram()
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

// unmapProgram takes the pages of the program, which is what most of an idle gateway is, out of the
// process. They stay in the kernel's cache of files, as long as nobody needs that memory more; those
// that the gateway still needs come back from there as it goes on, in some hundred faults of a
// microsecond. What only the start has needed does not.
//
// Only what is as it is in the file can come back from there: not what a dynamic linker has changed,
// nor a page with a debugger's breakpoint. The kernel tells of each mapping how much of it is no
// file's any more (proc(5), smaps).
func unmapProgram() {
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return // the kernel does not tell
	}
	var m mapping
	for line := range strings.Lines(string(text)) {
		if begun, ok := parseMapping(line); ok {
			m.unmap()
			m = begun
			continue
		}
		var kilobytes int
		for _, name := range []string{"Anonymous", "Swap"} {
			if n, _ := fmt.Sscanf(line, name+": %d kB", &kilobytes); n == 1 {
				m.told++
				m.changed = m.changed || kilobytes > 0
			}
		}
	}
	m.unmap()
}

// A mapping is a piece of the process's memory.
type mapping struct {
	from, to uintptr
	fixed    bool // it is of a file, and nobody writes to it
	changed  bool // a part of it was changed all the same
	told     int  // how often the kernel has said whether
}

// parseMapping parses the first line of a mapping.
func parseMapping(line string) (m mapping, ok bool) {
	var mode, offset, device string
	var inode uint64
	_, err := fmt.Sscanf(line, "%x-%x %s %s %s %d", &m.from, &m.to, &mode, &offset, &device, &inode)
	m.fixed = inode != 0 && (mode == "r-xp" || mode == "r--p")
	return m, err == nil
}

// unmap takes the pages of a mapping that is as its file is.
func (m *mapping) unmap() {
	if m.fixed && !m.changed && m.told == 2 {
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, m.from, m.to-m.from, syscall.MADV_DONTNEED)
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
