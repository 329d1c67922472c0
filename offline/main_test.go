package offline

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gateway/broker/packet"
	"gateway/broker/session"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		crashChild(path)
		return
	}
	goleak.VerifyTestMain(m)
}

// storePath is a place for a store.
func storePath(t testing.TB) string { return filepath.Join(t.TempDir(), "store.db") }

func open(t testing.TB, path string, o Options) *Store {
	t.Helper()
	s, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
	return s
}

// commitNow submits one unit and waits for its done.
func commitNow(s *Store, changes ...session.Change) error {
	done := make(chan error, 1)
	s.Submit(changes, false, func(err error) { done <- err })
	return <-done
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// openSession opens a session that never expires, and returns its incarnation.
func openSession(t testing.TB, s *Store, client string) uint64 {
	t.Helper()
	o := &session.Opened{Client: client, Expiry: 0xFFFFFFFF, Version: packet.V5}
	must(t, commitNow(s, o))
	return o.Incarnation
}

func publish(topic, payload string) packet.Publish {
	return packet.Publish{QoS: 1, Topic: topic, Payload: []byte(payload)}
}

// enqueue makes a message for sessions by name and incarnation.
func enqueue(payload string, to ...*session.Target) *session.Enqueued {
	return &session.Enqueued{Message: &session.Message{Publish: publish("t", payload), At: time.Now()}, To: to}
}

func to(client string, incarnation uint64) *session.Target {
	return &session.Target{Client: client, Incarnation: incarnation, QoS: 1}
}

// payloads reads a whole queue.
func payloads(t testing.TB, s *Store, client string) []string {
	t.Helper()
	found, err := s.Read(client, 0, 1<<20)
	must(t, err)
	var p []string
	for _, q := range found {
		p = append(p, string(q.Message.Publish.Payload))
	}
	return p
}

// eventually waits until ok, for at most half a minute.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	const patience = 30 * time.Second // a disk that is busy with other things takes seconds for a commit
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(time.Millisecond)
	}
}

// checkClean fails the test if the file has problems.
func checkClean(t testing.TB, path string) Report {
	t.Helper()
	r, err := Check(path)
	must(t, err)
	if r.Problems != nil {
		t.Fatalf("check: %q", r.Problems)
	}
	return r
}

// A logbook keeps what was logged.
type logbook struct{ lines chan string }

func newLogbook() (*slog.Logger, *logbook) {
	b := &logbook{lines: make(chan string, 1000)}
	return slog.New(slog.NewTextHandler(b, nil)), b
}

func (b *logbook) Write(line []byte) (int, error) {
	b.lines <- string(line)
	return len(line), nil
}

func (b *logbook) all() (lines []string) {
	for {
		select {
		case line := <-b.lines:
			lines = append(lines, line)
		default:
			return lines
		}
	}
}
