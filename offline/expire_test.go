package offline

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// A sleeper is a receiver that is away. What is before the first number was sent on its last connection, what
// is before the second on an earlier one.
type sleeper struct {
	from, sent uint64
	expired    atomic.Int64
}

func (s *sleeper) Hold() (from, sent uint64) { return s.from, s.sent }
func (s *sleeper) Expired(messages int64)    { s.expired.Add(messages) }

// lasting is a message that expires after an hour, of which it has waited some.
func lasting(payload string, waited time.Duration, to ...*session.Target) *session.Enqueued {
	e := enqueue(payload, to...)
	e.Message.Publish.Properties = &packet.PublishProperties{HasMessageExpiry: true, MessageExpiry: 3600}
	e.Message.Waited = waited
	return e
}

// TestExpiredMakeRoom: before a quota drops or refuses a message, what has expired goes, whatever its place
// in the queue, and is counted apart from what the quota has dropped.
func TestExpiredMakeRoom(t *testing.T) {
	for _, policy := range []session.Policy{session.DropNewest, session.DropOldest, session.Refuse} {
		path := storePath(t)
		s := open(t, path, Options{})
		a, b := openSession(t, s, "a"), openSession(t, s, "b")
		away := &sleeper{}
		target := func() *session.Target {
			to := bounded("a", a, &session.Quota{Messages: 10, Full: policy}, nil)
			to.Holder = away
			return to
		}
		for i := range 10 {
			e := lasting(fmt.Sprint("old", i), time.Hour, target(), to("b", b)) // they share a body
			if i%3 == 0 {
				e = enqueue(fmt.Sprint("kept", i), target())
			}
			must(t, commitNow(s, e))
		}
		for i := range 6 {
			e := enqueue(fmt.Sprint("new", i), target())
			must(t, commitNow(s, e))
			if e.Dropped != nil || e.To[0].Position == 0 {
				t.Errorf("policy %d: new %d dropped %+v", policy, i, e.Dropped)
			}
		}
		if got := strings.Join(payloads(t, s, "a"), " "); got != "kept0 kept3 kept6 kept9 new0 new1 new2 new3 new4 new5" || away.expired.Load() != 6 {
			t.Errorf("policy %d: queue %s, %d expired", policy, got, away.expired.Load())
		}
		if got := len(payloads(t, s, "b")); got != 6 || drops(t, s) != nil {
			t.Errorf("policy %d: %d messages of the other session, dropped %q", policy, got, drops(t, s))
		}
		must(t, s.Close())
		checkClean(t, path)
	}
}

// TestExpiredAreTrimmed: what has expired goes when somebody asks for it, also after a restart, but for what is
// on its way or was sent at QoS 2 before [MQTT-4.3.3-7]; and without a need nothing is written.
func TestExpiredAreTrimmed(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{})
	a := openSession(t, s, "a")
	away := &sleeper{from: 3, sent: 7}
	for i := range 10 {
		e := lasting(fmt.Sprint(i+1), time.Hour, to("a", a))
		e.To[0].QoS = packet.QoS(1 + i%2)
		must(t, commitNow(s, e))
	}
	must(t, commitNow(s, lasting("later", 0, to("a", a))))
	must(t, s.Close())
	s = open(t, path, Options{})
	expiring := false
	must(t, s.Restore(func(c session.Change) {
		if sum, ok := c.(*session.Summary); ok {
			expiring = sum.Expiring
		}
	}))
	if !expiring {
		t.Error("nothing is said to expire")
	}
	trim := &session.Trimmed{To: to("a", a)}
	trim.To.Holder = away
	must(t, commitNow(s, trim))
	if got := strings.Join(payloads(t, s, "a"), " "); got != "1 2 4 6 later" || away.expired.Load() != 6 || !trim.To.Held {
		t.Errorf("queue %s, %d expired", got, away.expired.Load())
	}
	if left := time.Until(trim.Next); left <= 0 || left > searchAgain {
		t.Errorf("the next look is in %v", left)
	}
	commits := s.Stats().Commits
	must(t, commitNow(s, trim))
	if s.Stats().Commits != commits || trim.To.Held {
		t.Error("a second look in vain was written")
	}
	for p := range uint64(11) {
		must(t, commitNow(s, &session.Advanced{Client: "a", Position: p + 1, Stage: session.Done}))
	}
	must(t, commitNow(s, trim))
	if !trim.Next.IsZero() {
		t.Errorf("an empty queue is looked at in %v", time.Until(trim.Next))
	}
	must(t, s.Close())
	checkClean(t, path)
}

// TestLongSearch: a long queue is searched in pieces.
func TestLongSearch(t *testing.T) {
	s := open(t, storePath(t), Options{})
	a := openSession(t, s, "a")
	away := &sleeper{}
	var all []session.Change
	for range searchMost {
		all = append(all, enqueue("kept", to("a", a)))
	}
	must(t, commitNow(s, append(all, lasting("old", time.Hour, to("a", a)))...))
	trim := &session.Trimmed{To: to("a", a)}
	trim.To.Holder = away
	must(t, commitNow(s, trim))
	if away.expired.Load() != 0 || trim.Next.IsZero() || trim.Next.After(time.Now()) {
		t.Errorf("after one piece: %d expired, next at %v", away.expired.Load(), trim.Next)
	}
	must(t, commitNow(s, trim))
	if away.expired.Load() != 1 || !trim.Next.IsZero() {
		t.Errorf("after all: %d expired, next at %v", away.expired.Load(), trim.Next)
	}
}
