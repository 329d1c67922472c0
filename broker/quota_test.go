package broker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/packet"
	"gateway/broker/session"
	"gateway/offline"
)

// A ledger is a broker on the real store, with small quotas, whose books are kept from outside.
type ledger struct {
	t      *testing.T
	path   string
	limits broker.Limits
	rooms  map[string]*session.Room
	store  *offline.Store
	server *broker.Server
}

func (l *ledger) open() {
	l.t.Helper()
	var err error
	if l.store, err = offline.Open(l.path, offline.Options{TelemetryCommit: 5 * time.Millisecond}); err != nil {
		l.t.Fatal(err)
	}
	l.server, err = broker.New(broker.Options{
		Store: l.store, Limits: l.limits, Queues: l.rooms, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *ledger) close() {
	l.t.Helper()
	if err := l.server.Close(); err != nil {
		l.t.Error(err)
	}
	if err := l.store.Close(); err != nil {
		l.t.Error(err)
	}
}

// connect connects a client whose session stays.
func (l *ledger) connect(id string) *broker.Client {
	l.t.Helper()
	c, err := l.server.Connect(broker.ClientOptions{ID: id, SessionExpiry: broker.Never, ReceiveMaximum: 10})
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

// dropped returns what is published about the drops of a session.
func (l *ledger) dropped(id string) (messages int64) {
	l.t.Helper()
	c := l.connect("$look")
	defer c.Close()
	if _, err := c.Subscribe(packet.Subscribe{Filters: []packet.Subscription{{Filter: "$SYS/broker/dropped/" + id}}}); err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	p, _, err := c.Next(ctx)
	if err != nil {
		return 0
	}
	var report struct {
		Client   string
		Messages int64
		Parts    []struct {
			Messages    int64
			First, Last uint64
		}
	}
	if err := json.Unmarshal(p.Payload, &report); err != nil || report.Client != id {
		l.t.Errorf("%s: %v", p.Payload, err)
	}
	sum := int64(0)
	for _, part := range report.Parts {
		sum += part.Messages
		if part.First == 0 || part.Last < part.First || int64(part.Last-part.First) < part.Messages-1 {
			l.t.Errorf("%d messages from %d to %d", part.Messages, part.First, part.Last)
		}
	}
	if sum != report.Messages {
		l.t.Errorf("%d messages, in parts %d", report.Messages, sum)
	}
	return report.Messages
}

// P4: for each queue, whatever its policy, with its client slow, away or coming and going, and
// through a restart: what was acknowledged to the publisher = delivered + queued + dropped and
// reported.
func TestBooksOfQuotas(t *testing.T) {
	oldest := session.Quota{Messages: 400, Full: session.DropOldest}
	l := &ledger{t: t, path: filepath.Join(t.TempDir(), "store"), limits: broker.Limits{QueueMessages: 500},
		rooms: map[string]*session.Room{
			"slow":   {Quota: oldest},
			"away":   {Quota: oldest},
			"fickle": {Quota: oldest},
			"bytes":  {Quota: session.Quota{Bytes: 4000, Full: session.DropOldest}, Rules: []session.Rule{session.NewRule("books/#", session.Quota{Messages: 100})}},
		}}
	ids := []string{"slow", "away", "fickle", "bytes", "newest"}
	l.open()
	for _, id := range ids {
		c := l.connect(id)
		if _, err := c.Subscribe(packet.Subscribe{Filters: []packet.Subscription{{Filter: "books/#", QoS: 1}}}); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	delivered := map[string]map[string]bool{"slow": {}, "fickle": {}}
	var in atomic.Int64
	for round := range 2 {
		if round > 0 {
			l.close()
			l.open()
		}
		ctx, stop := context.WithCancel(context.Background())
		var receivers, publishers sync.WaitGroup
		receive := func(id string, c *broker.Client, most int, pause time.Duration) {
			for range most {
				p, _, err := c.Next(ctx)
				if err != nil || ctx.Err() != nil {
					return
				}
				if key := string(p.Payload); delivered[id][key] && !p.Dup {
					t.Errorf("%s got %s twice", id, key)
				} else {
					delivered[id][key] = true
				}
				if pause > 0 {
					time.Sleep(pause) // it is slow
				}
				c.Done(p.ID)
			}
		}
		receivers.Go(func() {
			c := l.connect("slow")
			defer c.Close()
			receive("slow", c, 1<<30, 200*time.Microsecond)
		})
		receivers.Go(func() {
			for ctx.Err() == nil {
				c := l.connect("fickle")
				receive("fickle", c, 50, 0)
				c.Close()
			}
		})
		for p := range 8 {
			publishers.Go(func() {
				c := l.connect(fmt.Sprint("publisher", p))
				defer c.Close()
				done := make(chan packet.ReasonCode, 50)
				for i := range 1500 {
					if i >= cap(done) {
						if r := <-done; r.Failed() {
							t.Errorf("publish: %v", r)
						}
					}
					m := packet.Publish{Topic: "books/" + fmt.Sprint(p), QoS: 1, Payload: fmt.Append(nil, round, p, i)}
					c.Publish(m, func(r packet.ReasonCode) { done <- r })
					in.Add(1)
				}
				for range cap(done) {
					<-done
				}
			})
		}
		publishers.Wait()
		stop()
		receivers.Wait()
	}
	l.close()
	l.open() // a restart tells of all that was dropped
	for _, id := range ids {
		queued := int64(0)
		for from := uint64(0); ; {
			found, err := l.store.Read(id, from, 1000)
			if err != nil {
				t.Fatal(err)
			}
			for _, q := range found {
				if !delivered[id][string(q.Message.Publish.Payload)] { // else it was not acknowledged any more
					queued++
				}
				from = q.Position + 1
			}
			if len(found) == 0 {
				break
			}
		}
		dropped, got := l.dropped(id), int64(len(delivered[id]))
		t.Logf("%s: %d in, %d delivered, %d queued, %d dropped", id, in.Load(), got, queued, dropped)
		if in.Load() != got+queued+dropped || dropped == 0 {
			t.Errorf("%s: %d in, %d delivered + %d queued + %d dropped", id, in.Load(), got, queued, dropped)
		}
	}
	l.close()
	if r, err := offline.Check(l.path); err != nil || r.Problems != nil {
		t.Errorf("check: %v %q", err, r.Problems)
	}
}

// A queue that refuses: 0x97 in 5.0; before, no acknowledgement, and the connection ends after a
// while [MQTT-4.3.2-2], 5.0 4.13.
func TestQueueRefuses(t *testing.T) {
	l := &ledger{t: t, path: filepath.Join(t.TempDir(), "store"),
		rooms: map[string]*session.Room{"away": {Quota: session.Quota{Messages: 2, Full: session.Refuse}}}}
	l.open()
	defer l.close()
	c := l.connect("away")
	if _, err := c.Subscribe(packet.Subscribe{Filters: []packet.Subscription{{Filter: "full", QoS: 2}}}); err != nil {
		t.Fatal(err)
	}
	c.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- l.server.Serve(ln, broker.Listener{Name: "test", Auth: auth.Anonymous{}}) }()
	defer func() { _ = ln.Close(); <-served }()
	dial := func(v packet.Version) *wire {
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = nc.Close() })
		w := &wire{t: t, nc: nc, v: v, dec: packet.Decoder{Version: v}}
		connect := clean(fmt.Sprint("publisher", v))
		w.send(&connect)
		w.expect("CONNACK Success…")
		return w
	}
	five := dial(packet.V5)
	five.send(publish("full", "1", 1, 1), publish("full", "2", 2, 2))
	five.expect("PUBACK 1", "PUBREC 2")
	five.send(publish("full", "3", 1, 3), publish("full", "4", 2, 4), publish("elsewhere", "5", 0, 0))
	five.expect("PUBACK 3 "+packet.QuotaExceeded.String(), "PUBREC 4 "+packet.QuotaExceeded.String())
	four := dial(packet.V311)
	four.send(publish("full", "6", 1, 6), publish("none", "7", 1, 7))
	began := time.Now()
	four.silent()
	four.send(publish("none", "8", 1, 8))
	if got := four.readWithin(5 * time.Second); got != "closed" || time.Since(began) < time.Second {
		t.Errorf("%q after %v", got, time.Since(began))
	}
}

// The quota of stored messages and the limit of waiting ones both hold: the lower one counts.
func TestStoredMessages(t *testing.T) {
	for _, tt := range []struct{ limit, quota, want int }{
		{50, 0, 50}, {50, 10, 10}, {0, 10, 10}, {50, 200, 50},
	} {
		l := ledger{t: t, path: filepath.Join(t.TempDir(), "store.db")}
		l.limits.QueueMessages = tt.limit
		l.limits.Stored = session.Quota{Messages: int64(tt.quota), Full: session.DropOldest}
		l.open()
		c := l.connect("away")
		if _, err := c.Subscribe(packet.Subscribe{Filters: []packet.Subscription{{Filter: "t", QoS: 1}}}); err != nil {
			t.Fatal(err)
		}
		c.Close()
		c = l.connect("device")
		done := make(chan packet.ReasonCode, 1)
		for range 100 {
			c.Publish(packet.Publish{Topic: "t", QoS: 1}, func(r packet.ReasonCode) { done <- r })
			<-done
		}
		if n, _, _ := l.store.Count("away"); n != int64(tt.want) {
			t.Errorf("limit %d, quota %d: %d messages wait, want %d", tt.limit, tt.quota, n, tt.want)
		}
		l.close()
	}
}

// A client that is connected and stuck, as a bridge whose cloud is gone, loses the oldest of what was
// not sent to it.
func TestStuckClientLosesTheOldest(t *testing.T) {
	l := &ledger{t: t, path: filepath.Join(t.TempDir(), "store"),
		rooms: map[string]*session.Room{"stuck": {Quota: session.Quota{Messages: 30, Full: session.DropOldest}}}}
	l.open()
	defer l.close()
	stuck, from := l.connect("stuck"), l.connect("publisher") // which take 10 at a time
	if _, err := stuck.Subscribe(packet.Subscribe{Filters: []packet.Subscription{{Filter: "t", QoS: 1}}}); err != nil {
		t.Fatal(err)
	}
	answers := make(chan packet.ReasonCode, 1)
	for i := range 200 {
		from.Publish(packet.Publish{Topic: "t", QoS: 1, Payload: fmt.Append(nil, i)}, func(r packet.ReasonCode) { answers <- r })
		<-answers
	}
	var got []int
	for range 30 {
		p, _, err := stuck.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		if _, err := fmt.Sscan(string(p.Payload), &n); err != nil {
			t.Fatal(err)
		}
		got = append(got, n)
		stuck.Done(p.ID)
	}
	if got[0] != 0 || got[9] != 9 || got[11] < 180 || got[29] != 199 || !slices.IsSorted(got) {
		t.Errorf("got %v", got)
	}
}

// What a quota has dropped does not count as waiting, and not once more as dropped when its session ends.
func TestDroppedOnce(t *testing.T) {
	l := &ledger{t: t, path: filepath.Join(t.TempDir(), "store"), rooms: map[string]*session.Room{
		"q": {Quota: session.Quota{Messages: 5, Full: session.DropOldest}},
	}}
	l.open()
	defer l.close()
	q := l.connect("q")
	if _, err := q.Subscribe(packet.Subscribe{Filters: []packet.Subscription{{Filter: "t", QoS: 1}}}); err != nil {
		t.Fatal(err)
	}
	q.Close()
	p := l.connect("p")
	const all = 10
	for i := range all {
		done := make(chan packet.ReasonCode, 1)
		p.Publish(packet.Publish{Topic: "t", QoS: 1, Payload: fmt.Append(nil, i)}, func(r packet.ReasonCode) { done <- r })
		<-done
	}
	q = l.connect("q")
	if n := q.Waiting(); n != 5 {
		t.Errorf("%d messages wait, want 5", n)
	}
	q.Close()
	c, err := l.server.Connect(broker.ClientOptions{ID: "q", CleanStart: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, "all are dropped", func() bool { return l.server.Stats().Dropped.Load() >= all })
	if n := l.server.Stats().Dropped.Load(); n != all {
		t.Errorf("%d of %d messages are dropped", n, all)
	}
}
