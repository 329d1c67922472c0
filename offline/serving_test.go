package offline

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"gateway/broker"
	"gateway/broker/packet"
	"gateway/broker/session"
)

// A sickness is what a disk has while a store is on it.
type sickness struct {
	cause  atomic.Pointer[error]        // of every commit; nil: the disk is well
	after  atomic.Bool                  // the last flush fails, when all is written
	then   atomic.Pointer[func() error] // is called when a commit has failed
	failed atomic.Int64                 // commits
}

var errIO error = &os.PathError{Op: "write", Path: "store.db", Err: syscall.EIO}

func (s *sickness) begin(cause error) { s.cause.Store(&cause) }

func (s *sickness) end() { s.cause.Store(nil) }

func (s *sickness) commit(db *bolt.DB, fn func(*bolt.Tx) error) error {
	cause := s.cause.Load()
	if cause == nil {
		return commit(db, fn)
	}
	var err error
	if s.after.Load() {
		err = commit(db, fn)
	} else {
		err = commit(db, func(tx *bolt.Tx) error {
			if err := fn(tx); err != nil {
				return err
			}
			return *cause
		})
	}
	if err == errNothing {
		return err // it has asked nothing of the disk
	}
	if then := s.then.Load(); then != nil {
		err = errors.Join(err, (*then)())
	}
	s.failed.Add(1)
	return errors.Join(err, *cause)
}

// serve runs a broker on a store until the test ends.
func serve(t *testing.T, s *Store, o broker.Options) *broker.Server {
	t.Helper()
	if o.Store = s; o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	server, err := broker.New(o)
	must(t, err)
	t.Cleanup(func() { must(t, server.Close()) })
	return server
}

// subscriber connects a client of the broker whose session stays, and subscribes to a topic.
func subscriber(t *testing.T, server *broker.Server, id, filter string, qos packet.QoS) *broker.Client {
	t.Helper()
	c, err := server.Connect(broker.ClientOptions{ID: id, SessionExpiry: broker.Never})
	must(t, err)
	_, err = c.Subscribe(packet.Subscribe{Filters: []packet.Subscription{{Filter: filter, QoS: qos}}})
	must(t, err)
	return c
}

// say publishes one message at QoS 1 and returns the reason code of its PUBACK.
func say(c *broker.Client, topic, payload string) packet.ReasonCode {
	done := make(chan packet.ReasonCode, 1)
	c.Publish(publish(topic, payload), func(code packet.ReasonCode) { done <- code })
	return <-done
}

// next takes the next message, within half a minute.
func next(t *testing.T, c *broker.Client) packet.Publish {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	p, _, err := c.Next(ctx)
	must(t, err)
	return p
}

// TestAcknowledgedOnFailingDisk: what a receiver has acknowledged while the disk failed does not stay in its
// queue, where it would take the place of others.
func TestAcknowledgedOnFailingDisk(t *testing.T) {
	var disk sickness
	s := open(t, storePath(t), Options{TelemetryCommit: time.Millisecond, probe: time.Millisecond, sweepAt: 10, commit: disk.commit})
	server := serve(t, s, broker.Options{Queues: map[string]*session.Room{"r": {Quota: session.Quota{Messages: 20, Full: session.DropNewest}}}})
	r := subscriber(t, server, "r", "t", 1)
	p, err := server.Connect(broker.ClientOptions{ID: "p"})
	must(t, err)
	for range 10 { // as often does the disk fail
		if code := say(p, "t", "m"); code.Failed() {
			t.Fatal(code)
		}
		m := next(t, r)
		failed := disk.failed.Load()
		disk.begin(errIO)
		r.Done(m.ID)
		eventually(t, "the acknowledgement meets the disk", func() bool { return disk.failed.Load() > failed })
		eventually(t, "the store notices", func() bool { return s.Stats().LastError != nil })
		disk.end()
		eventually(t, "the store is ready again", func() bool { return s.Stats().LastError == nil })
	}
	for range 50 {
		if code := say(p, "t", "m"); code.Failed() {
			t.Fatal(code)
		}
		r.Done(next(t, r).ID)
	}
	eventually(t, "the queue is empty", func() bool {
		n, bytes, _ := s.Count("r")
		return n == 0 && bytes == 0
	})
}

// TestReadAgain: a receiver that is connected gets its queue when the file can be read again, though nobody
// publishes anything.
func TestReadAgain(t *testing.T) {
	var disk sickness
	folder := filepath.Join(t.TempDir(), "data")
	must(t, os.Mkdir(folder, 0o700))
	s := open(t, filepath.Join(folder, "store.db"), Options{TelemetryCommit: time.Millisecond, probe: time.Millisecond, commit: disk.commit})
	log, book := newLogbook()
	server := serve(t, s, broker.Options{Log: log})
	must(t, subscriber(t, server, "r", "t", 1).Close())
	p, err := server.Connect(broker.ClientOptions{ID: "p"})
	must(t, err)
	const n = 300 // more than are read at a time
	for range n {
		if code := say(p, "t", "m"); code.Failed() {
			t.Fatal(code)
		}
	}
	// The last flush fails, and the file cannot be opened again: bbolt has none to read from.
	away := func() error { return os.Rename(folder, folder+".away") }
	disk.then.Store(&away)
	disk.after.Store(true)
	disk.begin(errIO)
	if code := say(p, "t", "refused"); !code.Failed() {
		t.Fatal(code)
	}
	disk.then.Store(nil)
	r, err := server.Connect(broker.ClientOptions{ID: "r", SessionExpiry: broker.Never})
	must(t, err)
	eventually(t, "the queue could not be read", func() bool {
		return slices.ContainsFunc(book.all(), func(line string) bool { return strings.Contains(line, "cannot read a session's queue") })
	})
	must(t, os.Rename(folder+".away", folder))
	disk.end()
	for range n {
		m := next(t, r)
		if string(m.Payload) != "m" {
			t.Errorf("%s", m.Payload)
		}
		r.Done(m.ID)
	}
	eventually(t, "all is delivered", func() bool { n, _, _ := s.Count("r"); return n == 0 })
}

// TestForget: when a sender has lost its session, the identifiers of its messages at QoS 2 are forgotten, though the
// disk fails: none that it uses again is taken for a repetition, now or after a restart.
func TestForget(t *testing.T) {
	var disk sickness
	s := open(t, storePath(t), Options{probe: time.Millisecond, commit: disk.commit})
	server := serve(t, s, broker.Options{})
	r := subscriber(t, server, "r", "t", 1)
	cloud, err := server.Connect(broker.ClientOptions{ID: "cloud", SessionExpiry: broker.Never})
	must(t, err)
	exactly := func(id uint16, payload string) packet.ReasonCode {
		p := publish("t", payload)
		p.QoS, p.ID = 2, id
		done := make(chan packet.ReasonCode, 1)
		cloud.Publish(p, func(code packet.ReasonCode) { done <- code })
		return <-done
	}
	received := func() (ids []uint16) {
		must(t, s.Restore(func(c session.Change) {
			if sum, ok := c.(*session.Summary); ok && sum.Client == "cloud" {
				ids = sum.Received
			}
		}))
		return ids
	}
	take := func(want string) {
		t.Helper()
		m := next(t, r)
		if r.Done(m.ID); string(m.Payload) != want {
			t.Errorf("%s, want %s", m.Payload, want)
		}
	}
	for id := range uint16(3) {
		if code := exactly(id+1, "before"); code.Failed() {
			t.Fatal(code)
		}
		take("before")
	}
	disk.begin(errIO)
	// One PUBREL is on its way to the disk when the session is lost.
	released := make(chan packet.ReasonCode, 1)
	cloud.Release(3, func(code packet.ReasonCode) { released <- code })
	cloud.Forget()
	if code := <-released; !code.Failed() {
		t.Errorf("released on a failing disk: %s", code)
	}
	if code := exactly(1, "refused"); !code.Failed() {
		t.Errorf("taken on a failing disk: %s", code)
	}
	disk.end()
	eventually(t, "the identifiers are forgotten on the disk", func() bool { return len(received()) == 0 })
	for id := range uint16(3) {
		if code := exactly(id+1, "after"); code.Failed() {
			t.Fatal(code)
		}
		take("after")
	}
	if ids := received(); len(ids) != 3 {
		t.Errorf("received %d", ids)
	}
}

// TestNothingToCommit: what has nothing to be written says nothing about the disk, neither while it fails nor
// of a store that is to look whether it is well again.
func TestNothingToCommit(t *testing.T) {
	var disk sickness
	s := open(t, storePath(t), Options{probe: 10 * time.Millisecond, commit: disk.commit})
	a := openSession(t, s, "a")
	must(t, commitNow(s, enqueue("before", to("a", a))))
	disk.begin(errIO)
	if err := commitNow(s, enqueue("refused", to("a", a))); !errors.Is(err, ErrDisk) {
		t.Fatal(err)
	}
	idle := to("a", a)
	idle.Room = &session.Room{Quota: session.Quota{Age: time.Hour}}
	for range 3 {
		must(t, commitNow(s))
		must(t, commitNow(s, &session.Trimmed{To: idle}))
		if state, _ := StateOf(s.Stats().LastError); state != Broken {
			t.Errorf("the disk fails, and the store is %s", state)
		}
	}
	disk.end()
	eventually(t, "it is ready again", func() bool { return s.Stats().LastError == nil })
}

// TestAheadOfTheFile: a backlog that is delivered while nothing can be written costs no memory for each
// message, and is done with when the disk is well, or with the last commit of a store that is closed.
func TestAheadOfTheFile(t *testing.T) {
	for _, closes := range []bool{false, true} {
		var disk sickness
		path := storePath(t)
		s := open(t, path, Options{probe: time.Hour, commit: disk.commit})
		a := openSession(t, s, "a")
		const n = 1000
		for i := range n {
			if i%100 == 50 { // a position that is missing
				disk.begin(errIO)
				if err := commitNow(s, enqueue("m", to("a", a))); err == nil {
					t.Error("it was taken")
				}
				disk.end()
				continue
			}
			must(t, commitNow(s, enqueue("m", to("a", a))))
		}
		disk.begin(errIO)
		for i := range uint64(n) {
			if i != 500 && i%100 != 50 {
				s.Submit([]session.Change{&session.Advanced{Client: "a", Position: i + 1, Stage: session.Done}}, true, nil)
			}
		}
		if err := commitNow(s); !errors.Is(err, ErrDisk) {
			t.Errorf("a barrier behind what is not on disk: %v", err)
		}
		if c := s.committer.cursors[a]; c.head != 501 || len(c.stages) >= n/2 || len(s.committer.debt.units) > 0 {
			t.Errorf("head %d, %d stages, %d units", c.head, len(c.stages), len(s.committer.debt.units))
		}
		disk.end()
		if closes {
			must(t, s.Close())
			s = open(t, path, Options{})
		} else {
			must(t, commitNow(s))
		}
		if n, _, _ := s.Count("a"); n != 1 {
			t.Errorf("%d messages are left", n)
		}
		if got, err := s.Read("a", 0, 10); err != nil || len(got) != 1 || got[0].Position != 501 {
			t.Errorf("%v %+v", err, got)
		}
		must(t, s.Close())
		checkClean(t, path)
	}
}

// TestDebtStaysSmall: of what nobody waits for, the last that there is to say about each thing waits for the disk.
func TestDebtStaysSmall(t *testing.T) {
	var disk sickness
	path := storePath(t)
	s := open(t, path, Options{TelemetryCommit: time.Hour, probe: time.Hour, commit: disk.commit})
	openSession(t, s, "a")
	openSession(t, s, "b")
	disk.begin(errIO)
	for i := range 100 {
		for _, c := range []session.Change{
			&session.Opened{Client: "a", Expiry: uint32(i)},
			&session.Subscribed{Client: "a", Subscription: packet.Subscription{Filter: "t", QoS: 1}},
			&session.Unsubscribed{Client: "a", Filter: "t"},
			&session.Closed{Client: "a", At: time.Now()},
			&session.Retained{Message: &session.Message{Publish: publish("t", "")}},
			&session.Opened{Client: "b", Expiry: 7},
			&session.Closed{Client: "b", At: time.Now()},
			&session.Removed{Client: "b"},
		} {
			s.Submit([]session.Change{c}, true, nil)
			if err := commitNow(s); !errors.Is(err, ErrDisk) {
				t.Fatal(err)
			}
		}
	}
	if n := len(s.committer.debt.units); n > 5 {
		t.Errorf("%d units are owed", n)
	}
	disk.end()
	must(t, commitNow(s))
	var facts []session.Change
	must(t, s.Restore(func(c session.Change) { facts = append(facts, c) }))
	if len(facts) != 3 || facts[0].(*session.Opened).Expiry != 99 {
		t.Errorf("%+v", facts)
	}
	if _, ok := facts[1].(*session.Closed); !ok {
		t.Errorf("%T", facts[1])
	}
}
