package offline

import (
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// A large batch gives way to others while it is committed and while its callbacks run, and loses
// nothing by it.
func TestGiveWay(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "store.db"), Options{TelemetryCommit: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var ways atomic.Int64
	s.GiveWay(func() { ways.Add(1) })
	const messages = 20 * stride
	done := make(chan error, messages)
	for i := range messages {
		m := &session.Message{Publish: packet.Publish{Topic: string(rune('a' + i)), Payload: []byte("x")}}
		s.Submit([]session.Change{&session.Retained{Message: m}}, i < messages-1, func(err error) { done <- err })
	}
	for range messages {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	batches := s.Stats().Commits
	// They wait for the last one, which does not. Of a batch what is less than a stride does not count.
	if least := 2 * (messages/stride - batches); ways.Load() < least || ways.Load() == 0 {
		t.Errorf("%d messages in %d batches gave way %d times, want %d at least", messages, batches, ways.Load(), least)
	}
}
