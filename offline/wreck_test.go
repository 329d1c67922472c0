package offline

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// large makes a store whose buckets have pages of their own, with branches above them, and old pages among
// them. It returns the bytes of its file and a report of it.
func large(t *testing.T) ([]byte, Report) {
	t.Helper()
	path := storePath(t)
	s := open(t, path, Options{sweepAt: 64})
	a, b := openSession(t, s, "a"), openSession(t, s, "b")
	gone := openSession(t, s, "gone")
	rule := session.NewRule("t/#", session.Quota{})
	for i := range 30 {
		var changes []session.Change
		for j := range 50 {
			e := enqueue(fmt.Sprintf("message %d %0200d", i*50+j, 0), to("a", a))
			e.To[0].Rule = &rule
			if j%5 == 0 {
				e.To = append(e.To, to("b", b), to("gone", gone))
			}
			changes = append(changes, e)
		}
		for j := range 10 {
			changes = append(changes,
				&session.Retained{Message: &session.Message{At: time.Now(), Publish: publish(fmt.Sprint("retained/", j*30+i), fmt.Sprintf("%0100d", i))}},
				&session.Subscribed{Client: "a", Subscription: packet.Subscription{Filter: fmt.Sprintf("f/%d/%0100d", i*10+j, 0)}},
				&session.Opened{Client: fmt.Sprintf("client-%d-%d", i, j), Expiry: 0xFFFFFFFF})
		}
		must(t, commitNow(s, changes...))
	}
	must(t, commitNow(s, &session.Removed{Client: "gone"}, &session.Received{Client: "b", ID: 7}, &session.Received{Client: "b", ID: 8}))
	must(t, commitNow(s, &session.Released{Client: "b", ID: 8}))
	for i := range uint64(300) { // each commit leaves old pages behind
		must(t, commitNow(s, &session.Advanced{Client: "a", Position: i + 1, Stage: session.Done}))
	}
	must(t, commitNow(s, &session.Advanced{Client: "a", Position: 310, Stage: session.Done},
		&session.Advanced{Client: "a", Position: 311, Stage: session.Accepted}))
	last := enqueue(fmt.Sprintf("message %d %0200d", 1500, 0), to("a", a))
	must(t, commitNow(s, last, &session.Opened{Client: "last", Expiry: 60},
		&session.Retained{Message: &session.Message{At: time.Now(), Publish: publish("last", "one")}}))
	content, err := os.ReadFile(path) // as a power cut leaves it
	must(t, err)
	must(t, s.Close())
	path = storePath(t)
	must(t, os.WriteFile(path, content, 0o600))
	report := checkClean(t, path)
	im, err := newImage(bytes.NewReader(content), int64(len(content)))
	must(t, err)
	return content[:im.pages*pageSize], report
}

// TestEveryPage: of a file with one page destroyed all is saved but what was on this page, and nothing comes back
// that was over. What is lost of queues is told and in the books.
func TestEveryPage(t *testing.T) {
	content, whole := large(t)
	branches, used, lost := 0, 0, int64(0)
	for page := range len(content) / pageSize {
		damaged := bytes.Clone(content)
		clear(damaged[page*pageSize : (page+1)*pageSize])
		path := storePath(t)
		must(t, os.WriteFile(path, damaged, 0o600))
		if page < 2 || verify(path) == nil {
			continue
		}
		used++
		own := recordsOn(content, page)
		if binary.LittleEndian.Uint16(content[page*pageSize+8:]) == flagBranch {
			branches++
		}
		s := open(t, path, Options{})
		saved := s.Stats().Salvaged
		least, most := whole.Messages-int64(own[bucketQueue])-2*int64(own[bucketBodies]), whole.Messages
		if own[bucketCursors] > 0 {
			most++ // the newest cursor that is left is of the commit before
		}
		named := saved != nil && saved.Sessions == int64(whole.Sessions)
		if own[bucketSessions] > 0 && !named { // nobody knows whose queue it is
			least = 0
		}
		if saved == nil || saved.Messages < least || saved.Messages > most || saved.Sessions < int64(whole.Sessions-own[bucketSessions]) ||
			saved.Sessions > int64(whole.Sessions) || saved.Retained < int64(whole.Retained-own[bucketRetained]) || saved.Retained > int64(whole.Retained) {
			t.Errorf("page %d with %v: %+v of %d messages, %d sessions, %d retained", page, own, saved, whole.Messages, whole.Sessions, whole.Retained)
		}
		if saved.Lost != max(whole.Messages-saved.Messages, 0) {
			t.Errorf("page %d with %v: %d are told to be lost of %d, %d are there", page, own, saved.Lost, whole.Messages, saved.Messages)
		}
		lost += saved.Lost
		subscriptions, booked := 0, int64(0)
		must(t, s.Restore(func(c session.Change) {
			switch c := c.(type) {
			case *session.Subscribed:
				subscriptions++
			case *session.Dropped:
				if c.Reason == session.Lost {
					booked += c.Messages
				}
			case *session.Summary:
				if slices.Contains(c.Received, 8) {
					t.Errorf("page %d: an identifier that is free is taken", page)
				}
				if c.Client == "a" && c.Next < 1502 {
					t.Errorf("page %d: the next position is %d", page, c.Next)
				}
			}
		}))
		if named && booked != saved.Lost {
			t.Errorf("page %d: %d are lost, %d are in the books", page, saved.Lost, booked)
		}
		if named && subscriptions < whole.Subscriptions-own[bucketSubscriptions] || subscriptions > whole.Subscriptions {
			t.Errorf("page %d with %v: %d subscriptions of %d", page, own, subscriptions, whole.Subscriptions)
		}
		from := uint64(0)
		for found, err := s.Read("a", 0, 4000); from == 0 && len(found) > 0; from = found[0].Position {
			must(t, err)
			for _, q := range found {
				if want := fmt.Sprintf("message %d %0200d", q.Position-1, 0); string(q.Message.Publish.Payload) != want {
					t.Fatalf("page %d: position %d has %.20q", page, q.Position, q.Message.Publish.Payload)
				}
			}
			if found[0].Position < 301 {
				t.Errorf("page %d: message %d is delivered again", page, found[0].Position)
			}
		}
		must(t, s.Close())
		checkClean(t, path)
	}
	if branches < 5 || used < 60 || lost == 0 {
		t.Errorf("%d branches of %d pages, %d messages lost: the test shows nothing", branches, used, lost)
	}
}

// TestNothingIsInvented: whatever is wrong with some pages, no more is saved than there was, and each message is the
// one that had its position.
func TestNothingIsInvented(t *testing.T) {
	content, whole := large(t)
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 40 {
		damaged := bytes.Clone(content)
		for range 1 + random.IntN(6) {
			page := 2 + random.IntN(len(damaged)/pageSize-2)
			at := damaged[page*pageSize : (page+1)*pageSize]
			switch random.IntN(4) {
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
		}
		path := storePath(t)
		must(t, os.WriteFile(path, damaged, 0o600))
		s := open(t, path, Options{})
		if saved := s.Stats().Salvaged; saved != nil && (saved.Messages > whole.Messages+1 ||
			saved.Sessions > int64(whole.Sessions) || saved.Retained > int64(whole.Retained)) {
			t.Errorf("round %d: %+v of %+v", round, saved, whole)
		}
		found, err := s.Read("a", 0, 4000)
		must(t, err)
		for _, q := range found {
			if want := fmt.Sprintf("message %d %0200d", q.Position-1, 0); string(q.Message.Publish.Payload) != want {
				t.Fatalf("round %d: position %d has %.20q", round, q.Position, q.Message.Publish.Payload)
			}
		}
		must(t, s.Close())
	}
}

// recordsOn counts by bucket the records on one page.
func recordsOn(content []byte, page int) map[int]int {
	own := make(map[int]int)
	im := &image{r: &disk{r: bytes.NewReader(content)}, pages: uint64(len(content) / pageSize)}
	n, _, err := im.loadLeaf(uint64(page))
	if err != nil {
		return own
	}
	count := func(n node) {
		for i := range n.count {
			if bucket := bucketOf(n.key(i), n.value(i)); bucket >= 0 {
				own[bucket]++
			}
		}
	}
	count(n)
	for i := range n.count {
		if in, err := n.inline(i); err == nil {
			count(in)
		}
	}
	return own
}

// TestSalvageKeepsRules: the quota of a rule counts what was saved of its messages.
func TestSalvageKeepsRules(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{})
	a := openSession(t, s, "a")
	rule := session.NewRule("t/#", session.Quota{})
	e := enqueue("one", to("a", a))
	e.To[0].Rule = &rule
	must(t, commitNow(s, e, enqueue("two", to("a", a))))
	must(t, s.Close())
	s = open(t, path, Options{Suspect: errors.New("a test")})
	for _, c := range s.committer.cursors {
		if p := c.part(rule.Number); p.count != 1 || p.filter != "t/#" || c.count != 2 {
			t.Errorf("%+v of %d messages", p, c.count)
		}
	}
	must(t, s.Close())
	checkClean(t, path)
}

// TestNumbersStayNew: no session and no body gets a number that another had in the same file, whose records may
// still be on free pages.
func TestNumbersStayNew(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{sweepAt: 1})
	a, b := openSession(t, s, "a"), openSession(t, s, "b")
	must(t, commitNow(s, enqueue("shared", to("a", a), to("b", b))))
	must(t, commitNow(s, &session.Removed{Client: "a"}, &session.Removed{Client: "b"}))
	eventually(t, "nothing is left of them", func() bool { return commitNow(s) == nil && s.Stats().Dead == 0 })
	must(t, s.Close())
	_, _, err := Compact(path)
	must(t, err)
	s = open(t, path, Options{})
	if c := openSession(t, s, "c"); c <= b {
		t.Errorf("session %d after %d", c, b)
	}
	if n := s.intake.register.lastBody; n != 1 {
		t.Errorf("the last body was %d", n)
	}
}
