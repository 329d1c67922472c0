package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What work has needed is given back when there is no more of it, and only then.
func TestThrift(t *testing.T) {
	const bytes = 64 << 20
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		thrift{span: 50 * time.Millisecond, share: 1}.run(ctx)
	}()
	defer func() { stop(); <-done }()
	for round := range 3 {
		work := make([][]byte, 0, bytes>>10)
		for range cap(work) {
			work = append(work, make([]byte, 1<<10))
		}
		runtime.KeepAlive(work)
		runtime.GC() // as the collector does at some time
		deadline := time.After(10 * time.Second)
		for spare() > bytes/8 {
			select {
			case <-time.After(10 * time.Millisecond):
			case <-deadline:
				t.Fatalf("round %d: %d bytes are not given back", round, spare())
			}
		}
	}
}

// While there is work nothing is given back: it would be needed again at once.
func TestThriftWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const span = time.Second
		began, rested := time.Now(), make(chan bool)
		go func() { rested <- thrift{span: span}.rest(t.Context()) }()
		time.Sleep(span / 2)
		const busy = 5
		for range busy {
			runtime.KeepAlive(make([]byte, restBytes))
			time.Sleep(span)
		}
		if ok, took := <-rested, time.Since(began); !ok || took <= busy*span {
			t.Errorf("rests = %t after %v, with work for %v", ok, took, busy*span)
		}
	})
}

// The pages of the program leave the process, which goes on.
func TestUnmapProgram(t *testing.T) {
	mapped := func() (kilobytes int) {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(status)) {
			if _, err := fmt.Sscanf(line, "RssFile: %d kB", &kilobytes); err == nil {
				return kilobytes
			}
		}
		t.Skip("the kernel does not say which pages are those of files")
		return 0
	}
	before := mapped()
	unmapProgram()
	if after := mapped(); after > before-1<<10 {
		t.Errorf("%d kB of files are mapped, %d before", after, before)
	}
}
