package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
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

// What is as it is in its file leaves the process, as the program does; what was changed stays, though
// nobody may write to it any more, as it is with what a dynamic linker has prepared.
func TestUnmapProgram(t *testing.T) {
	const size = 1 << 20
	file, err := os.Create(filepath.Join(t.TempDir(), "program"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(bytes.Repeat([]byte("as it is"), size/8)); err != nil {
		t.Fatal(err)
	}
	load := func(change string) []byte {
		b, err := syscall.Mmap(int(file.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Munmap(b) })
		copy(b[size/2:], change)
		if err := syscall.Mprotect(b, syscall.PROT_READ); err != nil {
			t.Fatal(err)
		}
		return b
	}
	same, other := load(""), load("changed!")
	if n := bytes.Count(same, []byte("as it is")); n != size/8 { // which looks at all of it
		t.Fatalf("%d parts, want %d", n, size/8)
	}
	if n := mapped(t, same); n != size {
		t.Fatalf("%d bytes are mapped, want %d", n, size)
	}
	unmapProgram()
	if n := mapped(t, same); n != 0 {
		t.Errorf("%d bytes are mapped, want none", n)
	}
	if got := string(other[size/2 : size/2+8]); got != "changed!" {
		t.Errorf("what was changed is lost: %q", got)
	}
	if got := string(same[size/2 : size/2+8]); got != "as it is" {
		t.Errorf("what was unmapped comes back as %q", got)
	}
}

// mapped returns how many bytes of a mapping are in the process.
func mapped(t *testing.T, b []byte) (bytes int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip("the kernel does not say which pages are mapped:", err)
	}
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	within := false
	for line := range strings.Lines(string(text)) {
		if m, ok := parseMapping(line); ok {
			within = m.from <= at && at < m.to
		}
		if _, err := fmt.Sscanf(line, "Rss: %d kB", &bytes); err == nil && within {
			return bytes << 10
		}
	}
	t.Fatal("there is no such mapping")
	return 0
}
