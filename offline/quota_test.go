package offline

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// everything is a receiver to which nothing has been sent, but for what is before it.
type everything uint64

func (e everything) Hold() (from, sent uint64) { return uint64(e), uint64(e) }
func (e everything) Expired(int64)             {}

// bounded is a target with a quota.
func bounded(client string, incarnation uint64, q *session.Quota, rule *session.Rule) *session.Target {
	t := to(client, incarnation)
	t.Room, t.Rule, t.Holder = new(session.Room), rule, everything(0)
	if q != nil {
		t.Room.Quota = *q
	}
	if rule != nil {
		t.Room.Rules = []session.Rule{*rule}
	}
	return t
}

// drops returns what a restart would replay of dropped messages, one line for each rule and reason.
func drops(t *testing.T, s *Store) (lines []string) {
	t.Helper()
	must(t, s.Restore(func(c session.Change) {
		if d, ok := c.(*session.Dropped); ok {
			if time.Since(d.Until) > time.Minute || d.Until.Before(d.Since) {
				t.Errorf("dropped from %v to %v", d.Since, d.Until)
			}
			lines = append(lines, fmt.Sprintf("%s/%s %s: %d (%d bytes) in %d..%d", d.Client, d.Filter, d.Reason, d.Messages, d.Bytes, d.First, d.Last))
		}
	}))
	return lines
}

// TestQueueQuota: each bound with each policy does what it says to the queue, the publisher and the
// books, and a restart knows the same.
func TestQueueQuota(t *testing.T) {
	size := int64(enqueue("00", nil...).Message.Publish.Size(packet.V5))
	for _, tt := range []struct {
		name    string
		quota   session.Quota
		rule    *session.Rule
		queue   string
		refused int
		dropped string
	}{
		{name: "newest, messages", quota: session.Quota{Messages: 4}, queue: "00 01 02 03", dropped: fmt.Sprintf("a/ full: 6 (%d bytes) in 5..10", 6*size)},
		{name: "newest, bytes", quota: session.Quota{Bytes: 4*size + 1}, queue: "00 01 02 03", dropped: fmt.Sprintf("a/ full: 6 (%d bytes) in 5..10", 6*size)},
		{name: "oldest, messages", quota: session.Quota{Messages: 4, Full: session.DropOldest}, queue: "06 07 08 09", dropped: fmt.Sprintf("a/ full: 6 (%d bytes) in 1..6", 6*size)},
		{name: "oldest, bytes", quota: session.Quota{Bytes: 4 * size, Full: session.DropOldest}, queue: "06 07 08 09", dropped: fmt.Sprintf("a/ full: 6 (%d bytes) in 1..6", 6*size)},
		{name: "refuse, messages", quota: session.Quota{Messages: 4, Full: session.Refuse}, queue: "00 01 02 03", refused: 6},
		{name: "refuse, bytes", quota: session.Quota{Bytes: 4 * size, Full: session.Refuse}, queue: "00 01 02 03", refused: 6},
		{name: "a rule before the queue", quota: session.Quota{Messages: 4, Full: session.Refuse},
			rule:  &session.Rule{Number: 7, Filter: "r/#", Quota: session.Quota{Messages: 2, Full: session.DropOldest}},
			queue: "08 09", dropped: fmt.Sprintf("a/r/# full: 8 (%d bytes) in 1..8", 8*size)},
		{name: "a rule within the queue", quota: session.Quota{Messages: 3},
			rule:  &session.Rule{Number: 7, Filter: "r/#", Quota: session.Quota{Bytes: 100 * size, Full: session.DropOldest}},
			queue: "07 08 09", dropped: fmt.Sprintf("a/r/# full: 7 (%d bytes) in 1..7", 7*size)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := storePath(t)
			s := open(t, path, Options{})
			a := openSession(t, s, "a")
			refused, dropped := 0, int64(0)
			for i := range 10 {
				e := enqueue(fmt.Sprintf("%02d", i), bounded("a", a, &tt.quota, tt.rule))
				err := commitNow(s, e)
				if errors.Is(err, ErrFull) {
					refused++
				} else if err != nil {
					t.Fatal(err)
				}
				for _, d := range e.Dropped {
					dropped += d.Messages
				}
			}
			if s.Stats().LastError != nil {
				t.Errorf("a full queue is not a full store: %v", s.Stats().LastError)
			}
			for range 2 {
				queue := payloads(t, s, "a")
				if got := strings.Join(queue, " "); got != tt.queue || refused != tt.refused || len(queue)+refused+int(dropped) != 10 {
					t.Errorf("queue %s, %d refused, %d dropped", got, refused, dropped)
				}
				if got := strings.Join(drops(t, s), "; "); got != tt.dropped {
					t.Errorf("dropped %s, want %s", got, tt.dropped)
				}
				must(t, s.Close())
				checkClean(t, path)
				s = open(t, path, Options{})
			}
		})
	}
}

// TestRulesAreApart: a rule drops its own messages only, and what was acknowledged leaves its part.
func TestRulesAreApart(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{sweepAt: 1 << 40})
	a, b := openSession(t, s, "a"), openSession(t, s, "b")
	slow := &session.Rule{Number: 1, Filter: "slow", Quota: session.Quota{Messages: 3, Full: session.DropOldest}}
	fast := &session.Rule{Number: 2, Filter: "fast", Quota: session.Quota{Messages: 3, Full: session.DropOldest}}
	put := func(payload string, rule *session.Rule) {
		t.Helper()
		must(t, commitNow(s, enqueue(payload, bounded("a", a, nil, rule), to("b", b))))
	}
	for i := range 3 {
		put(fmt.Sprint("s", i), slow)
		put(fmt.Sprint("f", i), fast)
		put(fmt.Sprint("n", i), nil)
	}
	put("f3", fast)
	put("f4", fast)
	if got := strings.Join(payloads(t, s, "a"), " "); got != "s0 n0 s1 n1 s2 f2 n2 f3 f4" {
		t.Errorf("queue %s", got)
	}
	must(t, commitNow(s, &session.Advanced{Client: "a", Position: 1, Stage: session.Done}))
	put("s3", slow)
	if got := strings.Join(payloads(t, s, "a"), " "); got != "n0 s1 n1 s2 f2 n2 f3 f4 s3" {
		t.Errorf("queue %s", got)
	}
	if got := len(payloads(t, s, "b")); got != 12 {
		t.Errorf("%d messages in the other queue", got)
	}
	must(t, s.Close())
	if r := checkClean(t, path); r.Bodies != 12 {
		t.Errorf("%+v", r)
	}
	s = open(t, path, Options{})
	must(t, commitNow(s, enqueue("s4", bounded("a", a, nil, slow))))
	if got := strings.Join(payloads(t, s, "a"), " "); got != "n0 n1 s2 f2 n2 f3 f4 s3 s4" {
		t.Errorf("queue %s after a restart", got)
	}
}

// TestHold: what the receiver holds on to is not dropped, and the newest goes instead.
func TestHold(t *testing.T) {
	s := open(t, storePath(t), Options{})
	a := openSession(t, s, "a")
	q := &session.Quota{Messages: 3, Full: session.DropOldest}
	for i := range 6 {
		target := bounded("a", a, q, nil)
		target.Holder = everything(3) // 1 and 2 are on their way
		must(t, commitNow(s, enqueue(fmt.Sprint(i+1), target)))
		if target.Held != (i >= 3) {
			t.Errorf("message %d: held %t", i+1, target.Held)
		}
	}
	if got := strings.Join(payloads(t, s, "a"), " "); got != "1 2 6" {
		t.Errorf("queue %s", got)
	}
	last := bounded("a", a, q, nil)
	last.Holder = everything(7)
	must(t, commitNow(s, enqueue("7", last)))
	if got := strings.Join(payloads(t, s, "a"), " "); got != "1 2 6" || last.Position != 0 {
		t.Errorf("queue %s, position %d", got, last.Position)
	}
}

// TestOneBatch: what a later message of the same commit has made room for never had a position.
func TestOneBatch(t *testing.T) {
	entered, leave := make(chan struct{}, 100), make(chan struct{}, 100)
	s := open(t, storePath(t), Options{commit: func(db *bolt.DB, fn func(*bolt.Tx) error) error {
		entered <- struct{}{}
		<-leave
		return commit(db, fn)
	}})
	a := &session.Opened{Client: "a"}
	s.Submit([]session.Change{a}, false, nil)
	<-entered // what comes now shares the next commit
	var sent []*session.Target
	q := &session.Quota{Messages: 3, Full: session.DropOldest}
	for i := range 10 {
		sent = append(sent, bounded("a", a.Incarnation, q, nil))
		s.Submit([]session.Change{enqueue(fmt.Sprint(i), sent[i])}, false, nil)
	}
	close(leave)
	must(t, commitNow(s))
	for i, to := range sent {
		if (to.Position != 0) != (i >= 7) {
			t.Errorf("message %d has position %d", i, to.Position)
		}
	}
	if got := strings.Join(payloads(t, s, "a"), " "); got != "7 8 9" {
		t.Errorf("queue %s", got)
	}
}

// TestRefusedAndFailed: a message that is refused in a batch whose commit then fails was not taken.
func TestRefusedAndFailed(t *testing.T) {
	var fails atomic.Bool
	entered, leave := make(chan struct{}, 100), make(chan struct{}, 100)
	s := open(t, storePath(t), Options{commit: func(db *bolt.DB, fn func(*bolt.Tx) error) error {
		entered <- struct{}{}
		<-leave
		if err := commit(db, fn); err != nil || !fails.Load() {
			return err
		}
		return syscall.EIO
	}})
	leave <- struct{}{}
	a := openSession(t, s, "a")
	<-entered
	s.Submit([]session.Change{enqueue("first", to("a", a))}, false, nil)
	<-entered // what comes now shares the next commit
	errs := make(chan error, 2)
	report := func(err error) { errs <- err }
	s.Submit([]session.Change{enqueue("refused", bounded("a", a, &session.Quota{Messages: 1, Full: session.Refuse}, nil))}, false, report)
	s.Submit([]session.Change{enqueue("failed", to("a", a))}, false, report)
	leave <- struct{}{} // the first is stored
	<-entered
	fails.Store(true)
	leave <- struct{}{}
	for range 2 {
		if err := <-errs; err == nil {
			t.Error("a message that is nowhere was taken")
		}
	}
	fails.Store(false)
	close(leave)
	must(t, commitNow(s, enqueue("after", to("a", a))))
}

// TestAge: what is too old is dropped by the next message, or when somebody asks for it, and without
// a need nothing is written.
func TestAge(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{})
	a := openSession(t, s, "a")
	q := &session.Quota{Age: time.Hour}
	for i := range 3 {
		e := enqueue(fmt.Sprint(i), bounded("a", a, q, nil))
		e.Message.Waited = time.Duration(2-i) * 50 * time.Minute // 100, 50 and 0 minutes old
		must(t, commitNow(s, e))
	}
	if got := strings.Join(payloads(t, s, "a"), " "); got != "1 2" {
		t.Errorf("queue %s", got)
	}
	trim := &session.Trimmed{To: bounded("a", a, &session.Quota{Age: 40 * time.Minute}, nil)}
	must(t, commitNow(s, trim))
	if len(trim.Dropped) != 1 || trim.Dropped[0].Messages != 1 || trim.Dropped[0].Reason != session.Old {
		t.Errorf("trimmed %+v", trim.Dropped)
	}
	commits := s.Stats().Commits
	must(t, commitNow(s, trim))
	if trim.Dropped != nil || s.Stats().Commits != commits {
		t.Errorf("trimmed again: %+v, %d commits", trim.Dropped, s.Stats().Commits-commits)
	}
	if got := strings.Join(drops(t, s), "; "); !strings.HasPrefix(got, "a/ old: 2 ") || strings.Join(payloads(t, s, "a"), " ") != "2" {
		t.Errorf("dropped %s", got)
	}
	must(t, s.Close())
	checkClean(t, path)
}

// TestTotal: at the quota of the store a queue makes room as its policy says, one that has nothing
// is refused, and deletes find room.
func TestTotal(t *testing.T) {
	payload := string(make([]byte, 10_000))
	for _, policy := range []session.Policy{session.DropNewest, session.DropOldest, session.Refuse} {
		path := storePath(t)
		s := open(t, path, Options{MaxBytes: 1 << 20})
		hog, small := openSession(t, s, "hog"), openSession(t, s, "small")
		q := &session.Quota{Full: policy}
		in, refused, dropped := 0, 0, 0
		for range 300 {
			e := enqueue(payload, bounded("hog", hog, q, nil))
			in++
			if err := commitNow(s, e); errors.Is(err, ErrFull) {
				refused++
			} else if err != nil {
				t.Fatal(err)
			}
			for _, d := range e.Dropped {
				dropped += int(d.Messages)
			}
		}
		queued := len(payloads(t, s, "hog"))
		if in != queued+refused+dropped || queued < 50 || (refused > 0) != (policy == session.Refuse) {
			t.Errorf("policy %d: %d = %d queued + %d refused + %d dropped", policy, in, queued, refused, dropped)
		}
		if size := s.Stats().FileBytes - s.Stats().FreeBytes; size > 1<<20+1<<18 {
			t.Errorf("policy %d: %d bytes are used", policy, size)
		}
		if policy != session.DropOldest {
			err := commitNow(s, enqueue(payload, bounded("small", small, &session.Quota{Full: session.DropOldest}, nil)))
			if !errors.Is(err, ErrFull) {
				t.Errorf("policy %d: a queue without messages: %v", policy, err)
			}
		}
		must(t, commitNow(s, &session.Removed{Client: "hog"}))
		eventually(t, "there is room again", func() bool { return commitNow(s, enqueue(payload, to("small", small))) == nil })
		must(t, s.Close())
		checkClean(t, path)
	}
}

// TestSharedBodies: when the store is full, queues that share messages lose the oldest of them together, or
// nothing at all: without the one that keeps its own they would give no room.
func TestSharedBodies(t *testing.T) {
	for _, tt := range []struct {
		name     string
		policies []session.Policy
	}{
		{"both drop the oldest", []session.Policy{session.DropOldest, session.DropOldest}},
		{"the other drops the newest", []session.Policy{session.DropOldest, session.DropNewest}},
		{"the other comes first", []session.Policy{session.DropNewest, session.DropOldest}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := storePath(t)
			s := open(t, path, Options{MaxBytes: 1 << 20})
			clients := []string{"a", "b"}
			numbers := []uint64{openSession(t, s, "a"), openSession(t, s, "b")}
			dropped := make(map[string]int64)
			payload := strings.Repeat("x", 1000)
			n := 0
			say := func(to ...int) {
				t.Helper()
				e := enqueue(fmt.Sprint(n, payload))
				for _, i := range to {
					e.To = append(e.To, bounded(clients[i], numbers[i], &session.Quota{Full: tt.policies[i]}, nil))
				}
				n++
				must(t, commitNow(s, e))
				for _, d := range e.Dropped {
					dropped[d.Client] += d.Messages
				}
			}
			for dropped["a"]+dropped["b"] == 0 {
				say(0, 1)
			}
			full := n - 1
			for range 400 {
				say(0, 1)
			}
			for _, client := range clients {
				queued, _, _ := s.Count(client)
				if int(queued+dropped[client]) != n {
					t.Errorf("%s: %d of %d are queued, %d dropped", client, queued, n, dropped[client])
				}
				if int(queued) < full-full/10 {
					t.Errorf("%s: %d are queued, and were %d", client, queued, full)
				}
				newest := int64(full)
				if tt.policies[0] == tt.policies[1] {
					newest = int64(n)
				}
				got := payloads(t, s, client)
				if want := fmt.Sprint(newest-1, payload); got[len(got)-1] != want {
					t.Errorf("%s: the newest is %.10s, want %.10s", client, got[len(got)-1], want)
				}
			}
			must(t, s.Close())
			checkClean(t, path)
		})
	}
}

// TestUnsharedGoFirst: a queue that has to make room keeps what would give none, because it is in the queue of
// somebody who is away too, and loses the oldest of the rest.
func TestUnsharedGoFirst(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{MaxBytes: 1 << 20})
	a, away := openSession(t, s, "a"), openSession(t, s, "away")
	payload := strings.Repeat("x", 1000)
	old, newest := &session.Quota{Full: session.DropOldest}, &session.Quota{Full: session.DropNewest}
	const shared = 3 * sparedMost
	for i := range shared {
		must(t, commitNow(s, enqueue(fmt.Sprint(i, payload), bounded("a", a, old, nil), bounded("away", away, newest, nil))))
	}
	dropped := int64(0)
	last := 0
	for i := shared; i < 2000; i++ {
		e := enqueue(fmt.Sprint(i, payload), bounded("a", a, old, nil))
		must(t, commitNow(s, e))
		for _, d := range e.Dropped {
			dropped += d.Messages
		}
		last = i
	}
	got := payloads(t, s, "a")
	if int64(len(got))+dropped != 2000 {
		t.Errorf("%d are queued, %d dropped", len(got), dropped)
	}
	first := 0
	_, _ = fmt.Sscanf(got[shared], "%d", &first)
	if got[shared-1] != fmt.Sprint(shared-1, payload) || first < 1000 || got[len(got)-1] != fmt.Sprint(last, payload) {
		t.Errorf("behind what is shared come %d to %.10s", first, got[len(got)-1])
	}
	if n, _, _ := s.Count("away"); n != shared {
		t.Errorf("%d are left of those that are shared", n)
	}
	must(t, s.Close())
	checkClean(t, path)
}

// What a client that is connected was about to get is dropped when it has gone, and first, as it is the oldest.
func TestSparedOnlyWhileHeld(t *testing.T) {
	s := open(t, storePath(t), Options{MaxBytes: 1 << 20})
	a := openSession(t, s, "a")
	h := &sleeper{from: 300, sent: 300}
	drop := func() (first uint64) {
		to := bounded("a", a, &session.Quota{Full: session.DropOldest}, nil)
		to.Holder = h
		e := enqueue(strings.Repeat("x", 1000), to)
		must(t, commitNow(s, e))
		if len(e.Dropped) > 0 {
			first = e.Dropped[0].First
		}
		return first
	}
	next := func() uint64 {
		for range 2000 {
			if first := drop(); first > 0 {
				return first
			}
		}
		return 0
	}
	if first := next(); first != 300 {
		t.Fatalf("while the client is there message %d is dropped first, want 300", first)
	}
	h.from, h.sent = 1, 1
	if first := next(); first != 1 {
		t.Errorf("when it has gone message %d is dropped, want the oldest", first)
	}
}
