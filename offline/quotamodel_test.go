package offline

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// An account is what must have become of the messages for one session.
type account struct {
	incarnation uint64
	room        session.Room
	open        map[string]uint64 // payloads to their positions: neither acknowledged nor dropped
	dropped     int64
	held        uint64 // what Hold returned last; positions before are never dropped
	lapsed      map[string]bool
	expired     int64 // that were told of, and were not looked for in open
}

func (a *account) Hold() (from, sent uint64) { return a.held, a.held }
func (a *account) Expired(messages int64)    { a.expired += messages }

// TestQuotaModel applies random messages, acknowledgements and restarts, with random quotas and failing
// commits, and keeps books: every message that was taken is in its queue, in order, or acknowledged, or
// counted as dropped or expired; none is that was held, or expires before its time; and a quota is kept unless what is over it was held.
// In half of the runs the store as a whole is soon full.
func TestQuotaModel(t *testing.T) {
	folder := t.TempDir()
	var runs atomic.Int32
	rapid.Check(t, func(t *rapid.T) {
		path := filepath.Join(folder, fmt.Sprint(runs.Add(1)))
		var fails atomic.Bool
		maxBytes, sizes := int64(0), 60
		if rapid.Bool().Draw(t, "small") { // the store itself is soon full
			maxBytes, sizes = 200_000, 20_000
		}
		reopen := func() *Store {
			s, err := Open(path, Options{sweepAt: 3, TelemetryCommit: time.Hour, MaxBytes: maxBytes, commit: func(db *bolt.DB, fn func(*bolt.Tx) error) error {
				err := commit(db, fn)
				if fails.Swap(false) && err == nil {
					err = syscall.EIO
				}
				return err
			}})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s := reopen()
		defer func() { _ = s.Close() }()
		quota := rapid.Custom(func(t *rapid.T) session.Quota {
			return session.Quota{
				Messages: int64(rapid.IntRange(0, 6).Draw(t, "messages")),
				Bytes:    int64(rapid.SampledFrom([]int{0, 0, 150, 400}).Draw(t, "bytes")),
				Full:     session.Policy(rapid.IntRange(0, 2).Draw(t, "policy")),
			}
		})
		accounts := map[string]*account{}
		for _, client := range []string{"a", "b"} {
			o := &session.Opened{Client: client, Expiry: 9}
			if err := commitNow(s, o); err != nil {
				t.Fatal(err)
			}
			a := &account{incarnation: o.Incarnation, open: map[string]uint64{}, lapsed: map[string]bool{}, room: session.Room{Quota: quota.Draw(t, "quota")}}
			for _, filter := range []string{"x", "y"} {
				a.room.Rules = append(a.room.Rules, session.NewRule(filter, quota.Draw(t, "rule")))
			}
			accounts[client] = a
		}
		n := 0
		check := func() {
			sums := map[string]int64{}
			err := s.Restore(func(c session.Change) {
				if d, ok := c.(*session.Dropped); ok {
					sums[d.Client] += d.Messages
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			for client, a := range accounts {
				found, err := s.Read(client, 0, 1000)
				if err != nil || len(found) != len(a.open) || sums[client] != a.dropped {
					t.Fatalf("%s: %d in the queue, want %d; %d dropped, want %d; %v", client, len(found), len(a.open), sums[client], a.dropped, err)
				}
				last := uint64(0)
				for _, q := range found {
					if position, ok := a.open[string(q.Message.Publish.Payload)]; !ok || position != q.Position || position <= last {
						t.Fatalf("%s: message %d after %d", client, q.Position, last)
					}
					last = q.Position
				}
			}
		}
		// gone settles what the store has no more of a queue with the drops and what it has told of.
		gone := func(t *rapid.T, client string, a *account, dropped int64) {
			left := dropped + a.expired
			a.expired = 0
			plain := int64(0)
			for p, position := range a.open {
				if has(t, s, client, position) {
					continue
				}
				if position < a.held {
					t.Fatalf("%s: message %d has gone, %d was held", client, position, a.held)
				}
				if !a.lapsed[p] {
					plain++
				}
				delete(a.open, p)
				left--
			}
			if left != 0 || plain > dropped {
				t.Fatalf("%s: %d messages more were counted than have gone; %d went before their time, %d were dropped", client, left, plain, dropped)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"enqueue": func(t *rapid.T) {
				n++
				e := enqueue(fmt.Sprintf("%d %0*d", n, rapid.IntRange(1, sizes).Draw(t, "size"), 0))
				payload := string(e.Message.Publish.Payload)
				lapsed := rapid.IntRange(0, 2).Draw(t, "lapsed") == 0
				if lapsed || rapid.Bool().Draw(t, "lasts") {
					e.Message.Publish.Properties = &packet.PublishProperties{HasMessageExpiry: true, MessageExpiry: 3600}
				}
				if lapsed {
					e.Message.Waited = time.Hour
				}
				for _, client := range []string{"a", "b"} {
					a := accounts[client]
					if !rapid.Bool().Draw(t, client) {
						continue
					}
					to := &session.Target{Client: client, Incarnation: a.incarnation, QoS: 1, Room: &a.room, Holder: a}
					if i := rapid.IntRange(0, 2).Draw(t, "rule"); i < 2 {
						to.Rule = &a.room.Rules[i]
					}
					e.To = append(e.To, to)
				}
				fails.Store(rapid.IntRange(0, 9).Draw(t, "fails") == 0)
				err := commitNow(s, e)
				fails.Store(false)
				if err != nil {
					e.Dropped = nil
				}
				for _, to := range e.To {
					if a := accounts[to.Client]; err == nil && to.Position > 0 {
						a.open[payload], a.lapsed[payload] = to.Position, lapsed
					}
				}
				for client, a := range accounts {
					left := int64(0)
					for _, d := range e.Dropped {
						if d.Client == client {
							a.dropped += d.Messages
							left += d.Messages
						}
					}
					for _, to := range e.To {
						if err == nil && to.Client == client && to.Position == 0 {
							left-- // itself
						}
					}
					gone(t, client, a, left)
				}
			},
			"trim": func(t *rapid.T) {
				client := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "client")
				a := accounts[client]
				trim := &session.Trimmed{To: &session.Target{Client: client, Incarnation: a.incarnation, Room: &a.room, Holder: a}}
				if err := commitNow(s, trim); err != nil {
					t.Fatal(err)
				}
				left := int64(0)
				for _, d := range trim.Dropped {
					a.dropped += d.Messages
					left += d.Messages
				}
				gone(t, client, a, left)
			},
			"acknowledge": func(t *rapid.T) {
				client := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "client")
				found, err := s.Read(client, 0, 1000)
				if err != nil || len(found) == 0 {
					t.Skip("nothing to acknowledge")
				}
				q := rapid.SampledFrom(found).Draw(t, "message")
				if err := commitNow(s, &session.Advanced{Client: client, Position: q.Position, Stage: session.Done}); err != nil {
					t.Fatal(err)
				}
				delete(accounts[client].open, string(q.Message.Publish.Payload))
			},
			"hold": func(t *rapid.T) {
				a := accounts[rapid.SampledFrom([]string{"a", "b"}).Draw(t, "client")]
				a.held = uint64(rapid.IntRange(0, n+2).Draw(t, "from"))
			},
			"reopen": func(t *rapid.T) {
				if err := s.Close(); err != nil && !errors.Is(err, ErrDisk) {
					t.Fatal(err)
				}
				if r, err := Check(path); err != nil || r.Problems != nil {
					t.Fatalf("check: %v %q", err, r.Problems)
				}
				s = reopen()
			},
			"": func(*rapid.T) { check() },
		})
	})
}

// has reports whether a queue has a message at a position.
func has(t *rapid.T, s *Store, client string, position uint64) bool {
	found, err := s.Read(client, position, 1)
	if err != nil {
		t.Fatal(err)
	}
	return len(found) == 1 && found[0].Position == position
}
