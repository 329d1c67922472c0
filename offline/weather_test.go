package offline

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
	"gateway/broker/session"
)

// A storm is a broker on a store whose disk falls ill again and again, under publishers that repeat what was
// refused and receivers that are there.
type storm struct {
	t      *testing.T
	disk   sickness
	folder string
	store  *Store
	server *broker.Server

	mu   sync.Mutex
	seen map[string][]string // by receiver and topic, the payloads that have come
}

// publish publishes messages 1 to n of a topic, each until it is taken; at QoS 2 its identifier is then released.
func (s *storm) publish(topic string, qos packet.QoS, n int, took func()) {
	c, err := s.server.Connect(broker.ClientOptions{ID: topic, SessionExpiry: broker.Never})
	for ; err != nil; c, err = s.server.Connect(broker.ClientOptions{ID: topic, SessionExpiry: broker.Never}) {
	}
	until := func(try func(done func(packet.ReasonCode))) {
		for failed := true; failed; {
			done := make(chan packet.ReasonCode, 1)
			try(func(code packet.ReasonCode) { done <- code })
			failed = (<-done).Failed()
		}
	}
	for i := range n {
		p := publish(topic, fmt.Sprint(i+1))
		p.QoS, p.ID = qos, uint16(1+i%3)
		until(func(done func(packet.ReasonCode)) { c.Publish(p, done) })
		if qos == 2 {
			until(func(done func(packet.ReasonCode)) { c.Release(p.ID, done) })
		}
		took()
	}
}

// receive takes messages until ctx ends, as a bridge does: it comes again when a PUBREC could not be stored. turn
// is waited for before each.
func (s *storm) receive(ctx context.Context, id string, turn func()) {
	taken := make(map[uint16]bool) // identifiers at QoS 2
	for ctx.Err() == nil {
		c, err := s.server.Connect(broker.ClientOptions{ID: id, SessionExpiry: broker.Never, ReceiveMaximum: 8})
		if err != nil {
			s.t.Error(err) // its session is there
			return
		}
		for {
			turn()
			p, released, err := c.Next(ctx)
			if err != nil {
				break
			}
			if !released && !taken[p.ID] {
				s.mu.Lock()
				s.seen[id+" "+p.Topic] = append(s.seen[id+" "+p.Topic], string(p.Payload))
				s.mu.Unlock()
			}
			if p.QoS == 2 && !released {
				taken[p.ID] = true
				accepted := make(chan error, 1)
				if c.Accepted(p.ID, func(err error) { accepted <- err }); <-accepted != nil {
					break
				}
			}
			delete(taken, p.ID)
			c.Done(p.ID)
		}
		must(s.t, c.Close())
	}
}

// blow lets the disk fall ill once, for some commits, and get well.
func (s *storm) blow(random *rand.Rand) {
	cause := []syscall.Errno{syscall.EIO, syscall.ENOSPC, syscall.EROFS}[random.IntN(3)]
	s.disk.after.Store(random.IntN(2) == 0)
	gone := random.IntN(4) == 0 // the file cannot be opened again
	if gone {
		var once sync.Once
		away := func() (err error) {
			once.Do(func() { err = os.Rename(s.folder, s.folder+".away") })
			return err
		}
		s.disk.then.Store(&away)
	}
	commits := s.disk.failed.Load() + 1 + random.Int64N(10)
	s.disk.begin(&os.PathError{Op: "write", Path: "store.db", Err: cause})
	if gone { // nothing but the first commit comes as far as to the disk
		commits = 0
		eventually(s.t, "the file is away", func() bool { _, err := os.Stat(s.folder + ".away"); return err == nil })
	}
	eventually(s.t, "commits have failed", func() bool { return s.disk.failed.Load() >= commits })
	s.disk.then.Store(nil)
	if gone {
		must(s.t, os.Rename(s.folder+".away", s.folder))
	}
	s.disk.end()
}

// TestStorm: a disk that fails under load in all kinds of ways, and gets well, leaves nothing behind. Everything
// goes on by itself; no message that was acknowledged is lost, out of order, or at QoS 2 delivered twice; and a
// queue with a quota has exact books.
func TestStorm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const publishers, n, gales = 3, 400, 12
	s := &storm{t: t, folder: filepath.Join(t.TempDir(), "data"), seen: make(map[string][]string)}
	must(t, os.Mkdir(s.folder, 0o700))
	path := filepath.Join(s.folder, "store.db")
	s.store = open(t, path, Options{TelemetryCommit: time.Millisecond, probe: time.Millisecond, sweepAt: 20, commit: s.disk.commit})
	s.server = serve(t, s.store, broker.Options{Queues: map[string]*session.Room{
		"all": {}, "slow": {Quota: session.Quota{Messages: 30, Full: session.DropOldest}},
	}})
	must(t, subscriber(t, s.server, "all", "t/#", 2).Close())
	must(t, subscriber(t, s.server, "slow", "t/#", 1).Close())

	ctx, stop := context.WithCancel(context.Background())
	var receiving, publishing sync.WaitGroup
	turns := make(chan struct{}, publishers*n) // of the slow receiver, one for every second message
	var over, took atomic.Int64
	receiving.Go(func() { s.receive(ctx, "all", func() {}) })
	receiving.Go(func() {
		s.receive(ctx, "slow", func() {
			if over.Load() == 0 {
				select {
				case <-turns:
				case <-ctx.Done():
				}
			}
		})
	})
	for i := range publishers {
		publishing.Go(func() {
			s.publish(fmt.Sprint("t/", i), packet.QoS(1+i%2), n, func() {
				if took.Add(1)%2 == 0 {
					turns <- struct{}{}
				}
			})
		})
	}
	for i := range gales {
		eventually(t, "messages have been taken", func() bool { return took.Load() >= int64(i*publishers*n/(2*gales)) })
		s.blow(random)
	}
	publishing.Wait()
	over.Store(1)
	close(turns)
	for _, client := range []string{"all", "slow"} {
		eventually(t, "the queue of "+client+" is empty", func() bool { n, _, _ := s.store.Count(client); return n == 0 })
	}
	eventually(t, "the store is ready", func() bool { return s.store.Stats().LastError == nil })
	stop()
	receiving.Wait()
	s.audit(publishers, n)
	must(t, s.server.Close())
	must(t, s.store.Close())
	checkClean(t, path)
}

// audit compares what was received, and what the store says that it has dropped, with what was sent.
func (s *storm) audit(publishers, n int) {
	t := s.t
	dropped := 0
	must(t, s.store.Restore(func(c session.Change) {
		switch c := c.(type) {
		case *session.Dropped:
			if dropped += int(c.Messages); c.Client != "slow" {
				t.Errorf("dropped %+v", c)
			}
		case *session.Summary:
			if len(c.Received) > 0 || c.Bytes != 0 {
				t.Errorf("left behind: %+v", c)
			}
		}
	}))
	arrived := 0
	for key, payloads := range s.seen {
		client, topic, _ := strings.Cut(key, " ")
		last, again := 0, 0
		for _, payload := range payloads {
			var i int
			_, _ = fmt.Sscan(payload, &i)
			switch {
			case i <= last:
				again++
			case client == "all" && i != last+1:
				t.Errorf("%s: %d comes after %d", key, i, last)
			}
			if i > last && client == "slow" {
				arrived++
			}
			last = max(last, i)
		}
		if client == "all" && last != n {
			t.Errorf("%s: %d of %d", key, last, n)
		}
		if client == "all" && topic == "t/1" && again > 0 {
			t.Errorf("%s: %d came again at QoS 2", key, again)
		}
	}
	if arrived+dropped != publishers*n {
		t.Errorf("slow: %d arrived and %d dropped, of %d", arrived, dropped, publishers*n)
	}
	t.Logf("%d commits failed; of %d messages for the slow receiver %d were dropped", s.disk.failed.Load(), publishers*n, dropped)
}

// TestRealShortage: a file system without room, under a broker and a receiver, and then with room again.
func TestRealShortage(t *testing.T) {
	folder := t.TempDir()
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	defer func() { must(t, syscall.Unmount(folder, syscall.MNT_DETACH)) }()
	s := open(t, filepath.Join(folder, "store.db"), Options{TelemetryCommit: time.Millisecond, probe: time.Millisecond, sweepAt: 20})
	server := serve(t, s, broker.Options{Queues: map[string]*session.Room{"r": {}}})
	r := subscriber(t, server, "r", "t", 1)
	p, err := server.Connect(broker.ClientOptions{ID: "p"})
	must(t, err)
	sent, taken := 0, 0
	for range 3 {
		filler := filepath.Join(folder, "filler")
		f, err := os.Create(filler)
		must(t, err)
		for err == nil {
			_, err = f.Write(make([]byte, pageSize))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		must(t, f.Close())
		for { // until there is no room
			code := say(p, "t", fmt.Sprint(sent, string(make([]byte, 2000))))
			if code == packet.QuotaExceeded {
				break
			} else if code.Failed() {
				t.Fatal(code)
			}
			sent++
		}
		for ; taken < sent; taken++ { // which needs no room, or waits for it
			m := next(t, r)
			r.Done(m.ID)
		}
		must(t, os.Remove(filler))
		eventually(t, "the store is ready", func() bool { return s.Stats().LastError == nil })
		eventually(t, "what was acknowledged is on the disk", func() bool { n, _, _ := s.Count("r"); return n == 0 })
	}
	must(t, server.Close())
	must(t, s.Close())
	checkClean(t, filepath.Join(folder, "store.db"))
}
