package offline

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// BenchmarkSubmit has publishers of 200-byte QoS 1 messages that each wait for one commit before
// they send the next message, all into one queue.
func BenchmarkSubmit(b *testing.B) {
	for _, producers := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(producers), func(b *testing.B) {
			s, err := Open(filepath.Join(b.TempDir(), "store"), Options{MaxBytes: 1 << 30})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			opened := &session.Opened{Client: "bridge", Expiry: 0xFFFFFFFF, Version: packet.V5}
			s.Submit([]session.Change{opened}, true, nil)
			payload := make([]byte, 200)
			b.ReportAllocs()
			b.ResetTimer()
			before := written(b)
			var wg sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			for range producers {
				wg.Go(func() {
					done := make(chan error, 1)
					for left.Add(-1) >= 0 {
						s.Submit([]session.Change{&session.Enqueued{
							Message: &session.Message{Publish: packet.Publish{QoS: 1, Topic: "greenhouse/air/temperature", Payload: payload}},
							To:      []*session.Target{{Client: "bridge", Incarnation: opened.Incarnation, QoS: 1}},
						}}, false, func(err error) { done <- err })
						if err := <-done; err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			stats := s.Stats()
			b.ReportMetric(float64(stats.Messages)/b.Elapsed().Seconds(), "msg/s")
			b.ReportMetric(float64(stats.Messages)/float64(stats.Commits), "msg/commit")
			b.ReportMetric(float64(written(b)-before)/float64(stats.Messages), "written-B/msg")
		})
	}
}

// written returns the bytes that the process has written to files.
func written(b *testing.B) (n int64) {
	io, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Fatal(err)
	}
	_, counts, _ := strings.Cut(string(io), "wchar: ")
	if _, err := fmt.Sscan(counts, &n); err != nil {
		b.Fatal(err)
	}
	return n
}
