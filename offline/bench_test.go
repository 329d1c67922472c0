package offline

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// payloadBytes is the size of a payload in all benchmarks.
const payloadBytes = 200

func bridgeStore(b *testing.B, path string, o Options) (*Store, uint64) {
	b.Helper()
	o.MaxBytes = 1 << 30
	s, err := Open(path, o)
	must(b, err)
	opened := &session.Opened{Client: "bridge", Expiry: 0xFFFFFFFF, Version: packet.V5}
	must(b, commitNow(s, opened))
	return s, opened.Incarnation
}

func reading(incarnation uint64) *session.Enqueued {
	return &session.Enqueued{
		Message: &session.Message{At: time.Now(), Publish: packet.Publish{
			QoS: 1, Topic: "greenhouse/air/temperature", Payload: make([]byte, payloadBytes)}},
		To: []*session.Target{{Client: "bridge", Incarnation: incarnation, QoS: 1}},
	}
}

// publishers have window messages each on their way, all into one queue, until n are done.
func publishers(b *testing.B, s *Store, incarnation uint64, publishers, window, n int) {
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(n))
	for range publishers {
		wg.Go(func() {
			done := make(chan error, window) // as many as may be under way
			free := window
			for {
				for free > 0 && left.Add(-1) >= 0 {
					free--
					s.Submit([]session.Change{reading(incarnation)}, false, func(err error) { done <- err })
				}
				if free == window {
					return
				}
				if err := <-done; err != nil {
					b.Error(err)
				}
				free++
			}
		})
	}
	wg.Wait()
}

// BenchmarkSubmit has publishers that each wait for one commit before they send the next message.
func BenchmarkSubmit(b *testing.B) {
	for _, n := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s, bridge := bridgeStore(b, filepath.Join(b.TempDir(), "store"), Options{})
			defer s.Close()
			b.ReportAllocs()
			b.ResetTimer()
			publishers(b, s, bridge, n, 1, b.N)
			b.StopTimer()
			stats := s.Stats()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
			b.ReportMetric(float64(stats.Messages)/float64(stats.Commits), "msg/commit")
		})
	}
}

// BenchmarkSlowDisk is BenchmarkSubmit with each flush 10 ms slower, as on a memory card: 2,500 and
// 25,000 messages a second are wanted.
func BenchmarkSlowDisk(b *testing.B) {
	const flush, flushes = 10 * time.Millisecond, 2
	for _, tt := range []struct{ publishers, window int }{{1, 1}, {1, 100}, {50, 20}} {
		b.Run(fmt.Sprintf("%dx%d", tt.publishers, tt.window), func(b *testing.B) {
			s, bridge := bridgeStore(b, filepath.Join(b.TempDir(), "store"), Options{
				commit: func(db *bolt.DB, fn func(*bolt.Tx) error) error {
					time.Sleep(flushes * flush) // the disk is busy
					return commit(db, fn)
				}})
			defer s.Close()
			n := 100 * tt.publishers * tt.window
			b.ResetTimer()
			for range b.N {
				publishers(b, s, bridge, tt.publishers, tt.window, n)
			}
			b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// BenchmarkFlash counts what is written for a byte of payload while a backlog grows, and what of the file
// system's own comes on top of it at the device, which is the worst case: at most 1.4 in batches of 1,000, and
// 3 in batches of 100, are wanted; 21 KB for a message alone; 40 KB for a second of ten readings; with a
// receiver that acknowledges within the commit delay 0.05. Others write to the device, too, unless it is
// this benchmark's own: see scripts/own-disk.
func BenchmarkFlash(b *testing.B) {
	for _, batch := range []int{1000, 100, 10, 1} {
		for _, delivered := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d,delivered=%t", batch, delivered), func(b *testing.B) { flash(b, batch, delivered) })
		}
	}
	b.Run("telemetry", func(b *testing.B) { // ten points, a reading of each every second, in both ways that they are kept
		s, bridge := bridgeStore(b, filepath.Join(b.TempDir(), "store"), Options{})
		defer s.Close()
		const readings, seconds = 10, 10
		tick := time.NewTicker(time.Second / readings)
		defer tick.Stop()
		run := func() {
			for i := range readings * seconds {
				e := reading(bridge)
				e.Message.Publish.Topic = fmt.Sprintf("greenhouse/air/%d/temperature", i%readings)
				s.Submit([]session.Change{&session.Retained{Message: e.Message}, e}, true, nil)
				<-tick.C
			}
		}
		run() // the file has grown
		before, device := written(b), deviceWritten(b)
		process, err := ProcessWritten()
		must(b, err)
		for range b.N {
			run()
		}
		b.ReportMetric(float64(written(b)-before)/float64(seconds*b.N), "B/s")
		sent, err := ProcessWritten()
		must(b, err)
		b.ReportMetric(float64(sent-process)/float64(seconds*b.N), "process-B/s")
		b.ReportMetric(float64(deviceWritten(b)-device)/float64(seconds*b.N), "device-B/s")
	})
	b.Run("acknowledged", func(b *testing.B) {
		s, bridge := bridgeStore(b, filepath.Join(b.TempDir(), "store"), Options{CommitDelay: 250 * time.Millisecond})
		defer s.Close()
		before := written(b)
		const n = 2000
		for range b.N {
			for range n {
				e := reading(bridge)
				e.To[0].Early = true
				done := make(chan error, 1)
				s.Submit([]session.Change{e}, false, func(err error) { done <- err })
				s.Submit([]session.Change{&session.Advanced{Client: "bridge", Position: e.To[0].Position, Stage: session.Done}}, true, nil)
				must(b, <-done)
			}
		}
		b.ReportMetric(float64(written(b)-before)/float64(n*b.N*payloadBytes), "B/payload-B")
	})
}

// flash commits batches of messages, and with each the acknowledgements of the one before, if that is
// delivered; else the backlog grows, and the file with it.
func flash(b *testing.B, batch int, delivered bool) {
	s, bridge := bridgeStore(b, filepath.Join(b.TempDir(), "store"), Options{})
	defer s.Close()
	position := uint64(0)
	one := func() {
		var changes []session.Change
		for range batch {
			changes = append(changes, reading(bridge))
			if position++; delivered && position > uint64(batch) {
				changes = append(changes, &session.Advanced{Client: "bridge", Position: position - uint64(batch), Stage: session.Done})
			}
		}
		must(b, commitNow(s, changes...))
	}
	for range max(20, 2000/batch) { // the file has grown
		one()
	}
	before, device := written(b), deviceWritten(b)
	for range b.N {
		for range 20 {
			one()
		}
	}
	commits := float64(20 * b.N)
	put, sent := float64(written(b)-before), float64(deviceWritten(b)-device)
	b.ReportMetric(put/commits, "B/commit")
	b.ReportMetric(put/commits/float64(batch*payloadBytes), "B/payload-B")
	b.ReportMetric(sent/commits, "device-B/commit")
	b.ReportMetric(sent/commits/float64(batch*payloadBytes), "device-B/payload-B")
}

// BenchmarkFlashProfile tells what the pages are that a commit of 1,000 messages writes.
func BenchmarkFlashProfile(b *testing.B) {
	path := filepath.Join(b.TempDir(), "store")
	s, bridge := bridgeStore(b, path, Options{})
	defer s.Close()
	one := func() {
		var changes []session.Change
		for range 1000 {
			changes = append(changes, reading(bridge))
		}
		must(b, commitNow(s, changes...))
	}
	for range 20 {
		one()
	}
	before, err := os.ReadFile(path)
	must(b, err)
	for range b.N {
		one()
	}
	after, err := os.ReadFile(path)
	must(b, err)
	kinds := make(map[string]float64)
	used := 0.0 // bytes of the records' pages
	for at := 0; at < len(after); at += pageSize {
		page := after[at : at+pageSize]
		if at < len(before) && bytes.Equal(page, before[at:at+pageSize]) {
			continue
		}
		n, err := parseNode(page)
		switch {
		case at < 2*pageSize || err != nil || n.count == 0:
			kinds["other-pages"]++
		case len(n.key(0)) != len(queueKey(0, 0)):
			kinds["root-pages"]++
		case !n.leaf:
			kinds["branch-pages"]++
		default:
			kinds["message-pages"]++
			for i := range n.count {
				used += float64(elemHeader + len(n.key(i)) + len(n.value(i)))
			}
		}
	}
	for kind, n := range kinds {
		b.ReportMetric(n/float64(b.N), kind)
	}
	b.ReportMetric(used/float64(1000*b.N), "B/record")
}

// BenchmarkBacklog has a million messages in a queue: ready within a second and with less than 40 MB
// of memory of its own, a commit at most 1.5 times as slow as in an empty store, and as cheap as ever
// after all were delivered, are wanted.
func BenchmarkBacklog(b *testing.B) {
	if testing.Short() {
		b.Skip("short: does not write 250 MB")
	}
	const backlog, batch = 1_000_000, 4000
	path := filepath.Join(b.TempDir(), "store")
	s, bridge := bridgeStore(b, path, Options{})
	empty, cost := commitTimes(b, s, bridge)
	for range backlog / batch {
		var changes []session.Change
		for range batch {
			changes = append(changes, reading(bridge))
		}
		s.Submit(changes, false, nil)
	}
	full, _ := commitTimes(b, s, bridge)
	must(b, s.Close())
	debug.FreeOSMemory()
	began := time.Now()
	s, err := Open(path, Options{MaxBytes: 1 << 30})
	must(b, err)
	must(b, s.Restore(func(session.Change) {}))
	ready := time.Since(began)
	memory := anonymous(b)
	n, _, _ := s.Count("bridge")
	for from := uint64(0); ; {
		found, err := s.Read("bridge", from, 4000)
		must(b, err)
		if len(found) == 0 {
			break
		}
		var done []session.Change
		for _, q := range found {
			done = append(done, &session.Advanced{Client: "bridge", Position: q.Position, Stage: session.Done})
			from = q.Position + 1
		}
		must(b, commitNow(s, done...))
	}
	for deadline := time.Now().Add(2 * time.Minute); s.Stats().Dead > 0 && time.Now().Before(deadline); {
		must(b, commitNow(s, reading(bridge), reading(bridge))) // with which the dead ones are swept
	}
	_, drained := commitTimes(b, s, bridge)
	must(b, s.Close())
	b.ReportMetric(float64(n), "messages")
	b.ReportMetric(ready.Seconds(), "s-to-ready")
	b.ReportMetric(float64(memory)/1e6, "MB-anonymous")
	b.ReportMetric(float64(full)/float64(empty), "p99/p99-empty")
	b.ReportMetric(float64(cost), "B/commit-before")
	b.ReportMetric(float64(drained), "B/commit-after")
}

// commitTimes returns the 99th percentile of 1,000 lone commits, and what one writes.
func commitTimes(b *testing.B, s *Store, incarnation uint64) (p99 time.Duration, bytes int64) {
	b.Helper()
	var took []time.Duration
	before := written(b)
	for range 1000 {
		began := time.Now()
		must(b, commitNow(s, reading(incarnation)))
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)*99/100], (written(b) - before) / int64(len(took))
}

// written returns the bytes that the process has written to files (proc(5), wchar). The kernel's count
// of what it sends to disks is larger on file systems with large folios.
func written(b *testing.B) (n int64) {
	b.Helper()
	text, err := os.ReadFile("/proc/self/io")
	must(b, err)
	_, counts, _ := strings.Cut(string(text), "wchar: ")
	_, err = fmt.Sscan(counts, &n)
	must(b, err)
	return n
}

// deviceWritten returns the bytes that were sent to the disk of the folder for temporary files, by
// anybody; 0 where it is no disk.
func deviceWritten(b *testing.B) int64 {
	b.Helper()
	n, _ := DeviceWritten(os.TempDir())
	return n
}

// anonymous returns the memory of the process that is no file.
func anonymous(b *testing.B) (bytes int64) {
	b.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	must(b, err)
	_, text, _ := strings.Cut(string(status), "RssAnon:")
	_, err = fmt.Sscan(text, &bytes)
	must(b, err)
	return bytes << 10
}
