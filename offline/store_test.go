package offline

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// TestDoneOrder: dones come in the order of submission, those of failed units among them, and
// each exactly once.
func TestDoneOrder(t *testing.T) {
	s := open(t, storePath(t), Options{})
	a := openSession(t, s, "a")
	const n = 5000
	got := make(chan int, 2*n)
	for i := range n {
		changes := []session.Change{enqueue("m", to("a", a))}
		if i%7 == 3 { // the will cannot be stored, so this unit fails alone
			changes = append(changes, &session.Opened{Client: "bad", Will: &packet.Will{}})
		}
		s.Submit(changes, i%5 == 0, func(err error) {
			if (err != nil) != (i%7 == 3) {
				t.Errorf("unit %d: %v", i, err)
			}
			got <- i
		})
	}
	must(t, commitNow(s))
	must(t, s.Close())
	close(got)
	next := 0
	for i := range got {
		if i != next {
			t.Fatalf("done of unit %d when it was the turn of %d", i, next)
		}
		next++
	}
	if next != n {
		t.Errorf("%d dones of %d", next, n)
	}
}

// TestDoneMeansCommitted looks into the file from within done.
func TestDoneMeansCommitted(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{})
	a := openSession(t, s, "a")
	for i := range 50 {
		want := fmt.Sprint("message ", i)
		done := make(chan error, 1)
		s.Submit([]session.Change{enqueue(want, to("a", a))}, false, func(err error) {
			if err != nil {
				done <- err
				return
			}
			copied, err := os.ReadFile(path)
			if err == nil {
				err = os.WriteFile(path+".copy", copied, 0o600)
			}
			last := ""
			if err == nil {
				err = Dump(path+".copy", func(c session.Change) error {
					if e, ok := c.(*session.Enqueued); ok {
						last = string(e.Message.Publish.Payload)
					}
					return nil
				})
			}
			if err == nil && last != want {
				err = fmt.Errorf("the file ends with %q when %q was said to be in it", last, want)
			}
			done <- err
		})
		must(t, <-done)
	}
}

// TestDoneFollowsFlush: done is called after the last flush of the commit that has the unit.
func TestDoneFollowsFlush(t *testing.T) {
	var flushed atomic.Int64
	s := open(t, storePath(t), Options{commit: func(db *bolt.DB, fn func(*bolt.Tx) error) error {
		defer flushed.Add(1)
		return commit(db, fn)
	}})
	a := openSession(t, s, "a")
	for range 200 {
		before := flushed.Load()
		done := make(chan int64)
		s.Submit([]session.Change{enqueue("m", to("a", a))}, false, func(error) { done <- flushed.Load() })
		if after := <-done; after != before+1 {
			t.Fatalf("%d commits were through before Submit, %d when done was called", before, after)
		}
	}
}

func TestLazy(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{TelemetryCommit: 50 * time.Millisecond})
	a := openSession(t, s, "a")
	commits := s.Stats().Commits
	start := time.Now()
	for i := range 10 {
		s.Submit([]session.Change{enqueue(fmt.Sprint(i), to("a", a))}, true, nil)
	}
	eventually(t, "lazy changes are committed", func() bool { return len(payloads(t, s, "a")) == 10 })
	if waited := time.Since(start); waited < 50*time.Millisecond {
		t.Errorf("lazy changes waited %v only", waited)
	}
	must(t, s.Close())
	if n := s.Stats().Commits - commits; n != 1 {
		t.Errorf("%d commits for changes of one window", n)
	}

	s = open(t, path, Options{TelemetryCommit: time.Hour})
	s.Submit([]session.Change{enqueue("lazy", to("a", a))}, true, nil)
	must(t, commitNow(s)) // a barrier
	s.Submit([]session.Change{enqueue("lazy too", to("a", a))}, true, nil)
	must(t, commitNow(s, enqueue("urgent", to("a", a))))
	s.Submit([]session.Change{enqueue("last", to("a", a))}, true, nil)
	must(t, s.Close())

	s = open(t, path, Options{})
	if got := strings.Join(payloads(t, s, "a"), " "); got != "0 1 2 3 4 5 6 7 8 9 lazy lazy too urgent last" {
		t.Errorf("order: %s", got)
	}
}

// TestPendingIsBounded: Submit waits when too much is pending, and a done that submits then does
// not stop everything.
func TestPendingIsBounded(t *testing.T) {
	hold := make(chan struct{})
	s := open(t, storePath(t), Options{MaxPending: 4000, TelemetryCommit: time.Hour,
		commit: func(db *bolt.DB, fn func(*bolt.Tx) error) error {
			<-hold
			return commit(db, fn)
		}})
	var submitted atomic.Int64
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for range 100 {
			s.Submit([]session.Change{&session.Removed{Client: strings.Repeat("x", 100)}}, false, func(error) {
				for range 10 {
					s.Submit([]session.Change{&session.Removed{Client: "y"}}, true, nil)
				}
			})
			submitted.Add(1)
		}
	}()
	eventually(t, "the intake is full", func() bool { return s.Stats().Pending > 4000 })
	if n := submitted.Load(); n > 30 {
		t.Errorf("%d units were taken, with room for 16", n)
	}
	close(hold)
	<-finished
	must(t, commitNow(s))
}

func TestClosed(t *testing.T) {
	s := open(t, storePath(t), Options{})
	must(t, s.Close())
	if err := commitNow(s, &session.Removed{Client: "a"}); !errors.Is(err, ErrClosed) {
		t.Errorf("Submit: %v", err)
	}
	if _, err := s.Read("a", 0, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("Read: %v", err)
	}
	if err := s.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("Close: %v", err)
	}
}

func TestInUse(t *testing.T) {
	path := storePath(t)
	open(t, path, Options{})
	if _, err := Open(path, Options{}); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("second Open: %v", err)
	}
	if _, err := Check(path); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("Check: %v", err)
	}
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if _, err := Open(filepath.Join(path, "below"), Options{}); err == nil {
		t.Error("a store below a file was opened")
	}
}

// TestIncarnation: what is meant for a session that was removed does not reach the one that came
// after it, and what that one left behind does not come back.
func TestIncarnation(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{sweepAt: 1 << 40})
	a, b := openSession(t, s, "a"), openSession(t, s, "b")
	must(t, commitNow(s, enqueue("old", to("a", a), to("b", b)), &session.Received{Client: "a", ID: 1},
		&session.Subscribed{Client: "a", Subscription: packet.Subscription{Filter: "#"}}))
	again := &session.Opened{Client: "a"}
	s.Submit([]session.Change{&session.Removed{Client: "a"}, again}, true, nil)
	late := to("a", a)
	must(t, commitNow(s, enqueue("late", late), enqueue("new", to("a", again.Incarnation))))
	if late.Position != 0 || again.Incarnation == a {
		t.Errorf("position %d in incarnation %d after %d", late.Position, again.Incarnation, a)
	}
	for range 2 {
		if got := payloads(t, s, "a"); len(got) != 1 || got[0] != "new" {
			t.Errorf("queue %q", got)
		}
		must(t, s.Restore(func(c session.Change) {
			if sub, ok := c.(*session.Subscribed); ok {
				t.Errorf("%+v is back", sub)
			}
			if sum, ok := c.(*session.Summary); ok && len(sum.Received) > 0 {
				t.Errorf("%+v", sum)
			}
		}))
		must(t, s.Close())
		s = open(t, path, Options{sweepAt: 1 << 40})
	}
}

// TestSweep: what all queues have done with leaves the file, shared bodies after their last
// reference.
func TestSweep(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{sweepAt: 1})
	a, b := openSession(t, s, "a"), openSession(t, s, "b")
	e := enqueue("shared", to("a", a), to("b", b))
	must(t, commitNow(s, e, enqueue("alone", to("b", b))))
	must(t, commitNow(s, &session.Advanced{Client: "a", Position: 1, Stage: session.Done}))
	eventually(t, "the reference of a is swept", func() bool { return s.Stats().Dead == 0 })
	must(t, s.Close())
	if r := checkClean(t, path); r.Dead != 0 || r.Bodies != 1 || r.Messages != 2 {
		t.Errorf("%+v", r)
	}
	s = open(t, path, Options{sweepAt: 1})
	must(t, commitNow(s, &session.Removed{Client: "b"}))
	eventually(t, "b is swept", func() bool { return s.Stats().Dead == 0 })
	must(t, s.Close())
	if r := checkClean(t, path); r.Dead != 0 || r.Bodies != 0 || r.Messages != 0 || r.Sessions != 1 {
		t.Errorf("%+v", r)
	}
}

func TestCount(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{})
	a := openSession(t, s, "a")
	if n, size, oldest := s.Count("a"); n != 0 || size != 0 || !oldest.IsZero() {
		t.Errorf("empty: %d, %d, %v", n, size, oldest)
	}
	taken := time.Now().Add(-time.Minute) // before the store was opened: the minute counts as waited
	m := &session.Message{Publish: publish("t", "m"), At: time.Now(), Waited: time.Minute}
	must(t, commitNow(s, &session.Enqueued{Message: m, To: []*session.Target{to("a", a)}}, enqueue("m", to("a", a))))
	must(t, commitNow(s, &session.Advanced{Client: "a", Position: 2, Stage: session.Done}))
	for range 2 {
		n, size, oldest := s.Count("a")
		if n != 1 || size != int64(m.Publish.Size(packet.V5)) || oldest.Sub(taken).Abs() > time.Second {
			t.Errorf("%d, %d, %v after %v", n, size, oldest, taken)
		}
		must(t, s.Close())
		s = open(t, path, Options{})
	}
}

// TestQuota: above the quota messages are refused with one log line, what frees room goes
// through, and then messages again.
func TestQuota(t *testing.T) {
	log, book := newLogbook()
	s := open(t, storePath(t), Options{MaxBytes: 1 << 20, Log: log})
	a := openSession(t, s, "a")
	payload := string(make([]byte, 10_000))
	n := uint64(0)
	var err error
	for err == nil {
		n++
		err = commitNow(s, enqueue(payload, to("a", a)))
	}
	if !errors.Is(err, ErrFull) || n < 50 {
		t.Fatalf("message %d: %v", n, err)
	}
	for range 5 {
		if err := commitNow(s, &session.Retained{Message: enqueue(payload).Message}); !errors.Is(err, ErrFull) {
			t.Fatalf("retained: %v", err)
		}
	}
	if s.Stats().Refused != 6 || !errors.Is(s.Stats().LastError, ErrFull) {
		t.Errorf("%+v", s.Stats())
	}
	for position := range n {
		must(t, commitNow(s, &session.Advanced{Client: "a", Position: position, Stage: session.Done}))
	}
	must(t, commitNow(s, &session.Received{Client: "a", ID: 1}, &session.Released{Client: "a", ID: 1}))
	eventually(t, "there is room again", func() bool { return commitNow(s, enqueue(payload, to("a", a))) == nil })
	must(t, commitNow(s, &session.Removed{Client: "a"}))
	lines := book.all()
	if len(lines) != 2 || !strings.Contains(lines[0], "state=full") || !strings.Contains(lines[1], "again") {
		t.Errorf("log: %q", lines)
	}
}

// TestDiskFull fills a real file system.
func TestDiskFull(t *testing.T) {
	folder := t.TempDir()
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("cannot mount a small tmpfs here: %v", err)
	}
	defer func() { must(t, syscall.Unmount(folder, 0)) }()
	log, book := newLogbook()
	path := filepath.Join(folder, "store.db")
	s, err := Open(path, Options{Log: log})
	must(t, err)
	a := openSession(t, s, "a")
	n := uint64(0)
	for err == nil {
		n++
		err = commitNow(s, enqueue(string(make([]byte, 3000)), to("a", a)))
	}
	if !errors.Is(err, ErrFull) || !errors.Is(err, syscall.ENOSPC) || n < 100 {
		t.Fatalf("message %d: %v", n, err)
	}
	for position := range n {
		must(t, commitNow(s, &session.Advanced{Client: "a", Position: position, Stage: session.Done}))
	}
	eventually(t, "there is room again", func() bool { return commitNow(s, enqueue("m", to("a", a))) == nil })
	if lines := book.all(); len(lines) != 2 {
		t.Errorf("log: %q", lines)
	}
	must(t, s.Close())
	checkClean(t, path)
}

// TestDiskFails: every unit of a failed batch is told, nothing of it has an effect, the next is
// tried afresh, and each change of state is logged once.
func TestDiskFails(t *testing.T) {
	log, book := newLogbook()
	var fail atomic.Int32
	path := storePath(t)
	s := open(t, path, Options{Log: log, commit: func(db *bolt.DB, fn func(*bolt.Tx) error) error {
		switch fail.Load() {
		case failBefore:
			return &os.PathError{Op: "write", Path: path, Err: syscall.EIO}
		case failAfter:
			return errors.Join(commit(db, fn), fmt.Errorf("fdatasync: %w", syscall.EIO))
		}
		return commit(db, fn)
	}})
	a := openSession(t, s, "a")
	for _, how := range []int32{failBefore, failAfter} {
		must(t, commitNow(s, enqueue("before", to("a", a))))
		fail.Store(how)
		for range 3 {
			err := commitNow(s, enqueue("lost", to("a", a)), &session.Received{Client: "a", ID: 1})
			if !errors.Is(err, ErrDisk) || !errors.Is(err, syscall.EIO) {
				t.Fatalf("failure %d: %v", how, err)
			}
		}
		if err := commitNow(s, &session.Removed{Client: "a"}); !errors.Is(err, ErrDisk) {
			t.Fatalf("failure %d: %v", how, err)
		}
		fail.Store(0)
		must(t, commitNow(s, enqueue("after", to("a", a))))
	}
	want := "before after before after"
	for range 2 {
		if got := strings.Join(payloads(t, s, "a"), " "); got != want {
			t.Errorf("queue: %s", got)
		}
		if n, _, _ := s.Count("a"); n != 4 {
			t.Errorf("%d messages", n)
		}
		must(t, s.Close())
		checkClean(t, path)
		s = open(t, path, Options{})
	}
	if lines := book.all(); len(lines) != 4 {
		t.Errorf("log: %q", lines)
	}
}

// TestGapsAreHarmless: positions of failed messages are skipped by the head, the counters and
// Read, also when somebody acknowledges them.
func TestGapsAreHarmless(t *testing.T) {
	var fail atomic.Bool
	path := storePath(t)
	s := open(t, path, Options{commit: func(db *bolt.DB, fn func(*bolt.Tx) error) error {
		if fail.Load() {
			return syscall.EIO
		}
		return commit(db, fn)
	}})
	a := openSession(t, s, "a")
	done := func(position uint64) {
		must(t, commitNow(s, &session.Advanced{Client: "a", Position: position, Stage: session.Done}))
	}
	for i := range 6 { // positions 1, 3 and 5 fail
		fail.Store(i%2 == 0)
		if err := commitNow(s, enqueue(fmt.Sprint(i+1), to("a", a))); (err != nil) != (i%2 == 0) {
			t.Fatal(err)
		}
	}
	done(1)
	done(3)
	done(4)
	if got := strings.Join(payloads(t, s, "a"), " "); got != "2 6" {
		t.Errorf("queue: %s", got)
	}
	done(2)
	must(t, s.Restore(func(c session.Change) {
		if sum, ok := c.(*session.Summary); ok && (sum.Head != 6 || sum.Next != 7 || len(sum.Stages) != 0) {
			t.Errorf("%+v", sum)
		}
	}))
	done(6)
	must(t, s.Close())
	if r := checkClean(t, path); r.Messages != 0 {
		t.Errorf("%+v", r)
	}
}

// TestOneBadUnit: a unit that makes every commit with it fail costs the others nothing.
func TestOneBadUnit(t *testing.T) {
	hold := make(chan struct{})
	s := open(t, storePath(t), Options{commit: func(db *bolt.DB, fn func(*bolt.Tx) error) error {
		<-hold
		return commit(db, func(tx *bolt.Tx) error {
			if err := fn(tx); err != nil {
				return err
			}
			return tx.Bucket(bucketNames[bucketQueue]).ForEach(func(_, rec []byte) error {
				if bytes.Contains(rec, []byte("poison")) {
					return errors.New("no reason in particular")
				}
				return nil
			})
		})
	}})
	a := &session.Opened{Client: "a"}
	s.Submit([]session.Change{a}, false, nil)
	failed := make(chan int, 100)
	for i := range 100 {
		payload := "good"
		if i == 41 {
			payload = "poison"
		}
		s.Submit([]session.Change{enqueue(payload, to("a", a.Incarnation))}, false, func(err error) {
			if err != nil {
				failed <- i
			}
		})
	}
	close(hold)
	must(t, commitNow(s))
	if len(failed) != 1 || <-failed != 41 {
		t.Error("others failed than the bad one")
	}
	if n := len(payloads(t, s, "a")); n != 99 {
		t.Errorf("%d messages", n)
	}
	eventually(t, "the store is well", func() bool {
		return commitNow(s, enqueue("good", to("a", a.Incarnation))) == nil && s.Stats().LastError == nil
	})
}
