package offline

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// filled makes a store with a bit of everything, and returns the bytes of its file.
func filled(t testing.TB) []byte {
	path := storePath(t)
	s := open(t, path, Options{sweepAt: 1 << 40})
	a, b := openSession(t, s, "a"), openSession(t, s, "b")
	var changes []session.Change
	for i := range 60 {
		e := enqueue(fmt.Sprintf("message %d %0200d", i, 0), to("a", a))
		if i%3 == 0 {
			e.To = append(e.To, to("b", b))
		}
		changes = append(changes, e)
	}
	for i := range 20 {
		changes = append(changes,
			&session.Retained{Message: &session.Message{Publish: publish(fmt.Sprint("retained/", i), "value")}},
			&session.Subscribed{Client: "a", Subscription: packet.Subscription{Filter: fmt.Sprint("f/", i)}},
			&session.Received{Client: "b", ID: uint16(i)})
	}
	changes = append(changes, enqueue(string(make([]byte, 20_000)), to("a", a)))
	must(t, commitNow(s, changes...))
	must(t, commitNow(s, &session.Advanced{Client: "a", Position: 1, Stage: session.Done},
		&session.Advanced{Client: "a", Position: 3, Stage: session.Done},
		&session.Advanced{Client: "a", Position: 4, Stage: session.Accepted}))
	must(t, s.Close())
	checkClean(t, path)
	content, err := os.ReadFile(path)
	must(t, err)
	im, err := newImage(bytes.NewReader(content), int64(len(content)))
	must(t, err)
	return content[:im.pages*pageSize] // what the file has grown by ahead of its use is empty
}

// survive opens a store whose file has some content, uses it, and checks it. It returns what was
// salvaged, nil if nothing had to be.
func survive(t *testing.T, what string, content []byte) *Salvaged {
	t.Helper()
	path := storePath(t)
	must(t, os.WriteFile(path, content, 0o600))
	_, _ = Check(path) // must not panic
	_ = Dump(path, func(session.Change) error { return nil })
	s, err := Open(path, Options{})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	saved := s.Stats().Salvaged
	var clients []string
	if err := s.Restore(func(c session.Change) {
		if o, ok := c.(*session.Opened); ok {
			clients = append(clients, o.Client)
		}
	}); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	for _, client := range clients {
		if _, err := s.Read(client, 0, 1000); err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatalf("%s: %v", what, err)
		}
		s.Count(client)
	}
	n := openSession(t, s, "new")
	must(t, commitNow(s, enqueue("new", to("new", n))))
	must(t, s.Close())
	if saved == nil {
		return nil
	}
	checkClean(t, path)
	aside, err := os.ReadFile(saved.Aside)
	if err != nil || !bytes.Equal(aside, content) {
		t.Fatalf("%s: what was set aside is not what was there: %v", what, err)
	}
	return saved
}

// TestCutFile: a file that lost its end, at any page and within the first ones at many places, is
// set aside, and what was left of it is saved.
func TestCutFile(t *testing.T) {
	content := filled(t)
	most := 0
	for size := 0; size < len(content); size += 1 + size/3%977 {
		saved := survive(t, fmt.Sprintf("cut to %d bytes", size), content[:size])
		if saved != nil && saved.Messages > 0 {
			most++
		}
	}
	if saved := survive(t, "whole", content); saved != nil {
		t.Errorf("a sound file was set aside: %+v", saved)
	}
	t.Logf("something was saved of %d cut files", most)
}

// TestDamagedPages: no damage to pages makes Open fail or panic, and what it does not touch is
// saved.
func TestDamagedPages(t *testing.T) {
	content := filled(t)
	random := rand.New(rand.NewPCG(1, 2))
	saved := 0
	for i := range 160 {
		damaged := bytes.Clone(content)
		page := random.IntN(len(damaged) / pageSize)
		at := damaged[page*pageSize : (page+1)*pageSize]
		switch i % 4 {
		case 0:
			clear(at)
		case 1:
			for range 20 {
				at[random.IntN(64)] = byte(random.Uint32())
			}
		case 2:
			copy(at, content[random.IntN(len(content)/pageSize)*pageSize:][:pageSize])
		case 3:
			at[random.IntN(pageSize)] ^= 1 << random.IntN(8)
		}
		if s := survive(t, fmt.Sprintf("damage %d to page %d", i, page), damaged); s != nil && s.Messages+s.Retained > 0 {
			saved++
		}
	}
	if saved < 10 {
		t.Errorf("something was saved in %d cases only", saved)
	}
}

// TestSalvage: what one destroyed page does not concern is all there afterwards, with the
// positions that packet identifiers follow.
func TestSalvage(t *testing.T) {
	content := filled(t)
	path := storePath(t)
	must(t, os.WriteFile(path, content, 0o600))
	// Destroy the pages of the retained messages, by what is in them.
	for page := 2; page < len(content)/pageSize; page++ {
		if at := content[page*pageSize : (page+1)*pageSize]; bytes.Contains(at, []byte("retained/7")) {
			clear(at)
		}
	}
	saved := survive(t, "retained messages destroyed", content)
	if saved == nil || saved.Sessions != 2 || saved.Messages != 59+20 || saved.Retained != 0 || saved.Problems == 0 {
		t.Fatalf("%+v", saved)
	}
	path = filepath.Dir(saved.Aside) + "/store.db"
	s := open(t, path, Options{})
	if got := payloads(t, s, "b"); len(got) != 20 || got[1][:9] != "message 3" {
		t.Errorf("queue of b: %.20q", got)
	}
	found, err := s.Read("a", 0, 100)
	must(t, err)
	if len(found) != 59 || found[0].Position != 2 || found[1].Position != 4 || found[58].Position != 61 {
		t.Errorf("queue of a: %d messages from %d", len(found), found[0].Position)
	}
	must(t, s.Restore(func(c session.Change) {
		if sum, ok := c.(*session.Summary); ok {
			if sum.Client == "a" && (sum.Next != 62 || sum.Stages[4] != session.Accepted) || sum.Client == "b" && len(sum.Received) != 20 {
				t.Errorf("%+v", sum)
			}
		}
	}))
}

// TestCreationIsCut: a power cut while the file is created or replaced leaves a folder that the
// next start can do with.
func TestCreationIsCut(t *testing.T) {
	content := filled(t)
	path := storePath(t)
	s := open(t, path, Options{})
	must(t, s.Close())
	empty, err := os.ReadFile(path)
	must(t, err)
	for size := 0; size < len(empty); size += 1 + size/8 {
		path := storePath(t)
		must(t, os.WriteFile(path+".new", empty[:size], 0o600))
		s := open(t, path, Options{})
		must(t, s.Close())
		checkClean(t, path)
	}
	// A damaged file was set aside, and the power went before the new one took its place.
	path = storePath(t)
	must(t, os.WriteFile(path+".new", content, 0o600))
	s = open(t, path, Options{})
	if n := len(payloads(t, s, "b")); n != 20 {
		t.Errorf("%d messages of a file that was complete", n)
	}
	must(t, s.Close())
	// The power went while a damaged file was copied.
	path = storePath(t)
	must(t, os.WriteFile(path, content[:len(content)/4], 0o600))
	must(t, os.WriteFile(path+".new", empty, 0o600))
	s = open(t, path, Options{})
	if s.Stats().Salvaged == nil {
		t.Error("an unfinished copy took the place of the file")
	}
}

func TestFutureFormat(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{})
	must(t, s.Close())
	f, err := openFile(path, 1<<30)
	must(t, err)
	must(t, f.update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketNames[bucketMeta]).Put(keyFormat, numberRecord(formatVersion+1))
	}))
	must(t, f.close())
	before, err := os.ReadFile(path)
	must(t, err)
	if _, err := Open(path, Options{}); !errors.Is(err, ErrVersion) {
		t.Errorf("Open: %v", err)
	}
	if _, err := Check(path); !errors.Is(err, ErrVersion) {
		t.Errorf("Check: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file is not as it was: %v", err)
	}
}

// TestDamagedRecord: a message whose bytes have changed within a sound page is given up, and its
// queue goes on; a cursor that cannot be read is replaced.
func TestDamagedRecord(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{})
	a := openSession(t, s, "a")
	for _, p := range []string{"one", "two", "three"} {
		must(t, commitNow(s, enqueue(p, to("a", a))))
	}
	must(t, s.Close())
	content, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, bytes.ReplaceAll(content, []byte("two"), []byte("tvo")), 0o600))
	if r, err := Check(path); err != nil || len(r.Problems) != 1 {
		t.Errorf("check: %v %q", err, r.Problems)
	}
	s = open(t, path, Options{})
	for range 2 {
		if got := payloads(t, s, "a"); len(got) != 2 || got[0] != "one" || got[1] != "three" {
			t.Errorf("queue %q", got)
		}
		must(t, commitNow(s)) // what Read has given up is now Done
	}
	if n := s.Stats().Damaged; n != 1 {
		t.Errorf("%d damaged records", n)
	}
	must(t, s.Close())

	f, err := openFile(path, 1<<30)
	must(t, err)
	must(t, f.update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketNames[bucketCursors]).Put(numberKey(a), []byte("no cursor"))
	}))
	must(t, f.close())
	s = open(t, path, Options{})
	last := to("a", a)
	must(t, commitNow(s, enqueue("four", last)))
	if got := payloads(t, s, "a"); len(got) != 3 || last.Position != 4 {
		t.Errorf("queue %q, then position %d", got, last.Position)
	}
}

// TestStartTime: the time to start does not grow much with the backlog.
func TestStartTime(t *testing.T) {
	if testing.Short() {
		t.Skip("short: does not write 100 MB")
	}
	path := storePath(t)
	s := open(t, path, Options{})
	a := openSession(t, s, "a")
	payload := string(make([]byte, 1000))
	for range 100 {
		var changes []session.Change
		for range 1000 {
			changes = append(changes, enqueue(payload, to("a", a)))
		}
		s.Submit(changes, false, nil)
	}
	must(t, s.Close())
	start := time.Now()
	s = open(t, path, Options{})
	restored := 0
	must(t, s.Restore(func(session.Change) { restored++ }))
	took := time.Since(start)
	if n, _, _ := s.Count("a"); n != 100_000 || restored != 2 {
		t.Errorf("%d messages, %d restored", n, restored)
	}
	t.Logf("open and restore with %d MB in the queue: %v", s.Stats().FileBytes>>20, took)
	if took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func FuzzRecords(f *testing.F) {
	rec, err := appendMessage(appendTarget(unsealed(9), &session.Target{QoS: 2, SubscriptionIDs: []uint32{5}}, false),
		stamp{1, 2, 3, 4}, publish("t", "p"))
	must(f, err)
	f.Add(rec)
	for _, owner := range []*session.Owner{nil, {User: "u", Groups: []string{"g"}, Addr: "192.0.2.1", Certificate: []byte{1}, Rules: []byte("[]")}} {
		s := sessionRecord{number: 1, client: "c", closed: &stamp{}, owner: owner, will: &packet.Will{Topic: "w"}}
		rec, err = s.sealed()
		must(f, err)
		f.Add(rec)
	}
	c := newCursor()
	c.next, c.stages[5], c.stages[6] = 9, session.Done, session.Done
	f.Add(c.record())
	f.Fuzz(func(t *testing.T, rec []byte) {
		if len(rec) >= sealSize {
			seal(rec)
		}
		if c, err := parseCursor(rec); err == nil {
			if again, err := parseCursor(c.record()); err != nil || fmt.Sprint(*again) != fmt.Sprint(*c) {
				t.Errorf("%+v became %+v: %v", c, again, err)
			}
		}
		_, _ = parseQueued(rec)
		if s, err := parseSession(rec); err == nil {
			again, err := s.sealed()
			if err != nil {
				return // a will that no client can have
			}
			if other, err := parseSession(again); err != nil || !reflect.DeepEqual(other.owner, s.owner) {
				t.Errorf("%+v became %+v: %v", s.owner, other, err)
			}
		}
		_, _, _ = parseSubscription(rec)
		_, _ = sealedMessage(rec, recorded)
		_, _ = parseNode(rec)
		parseBoot(rec)
	})
}
