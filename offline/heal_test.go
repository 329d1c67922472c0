package offline

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// destroy clears the pages of a file that have some text on them, also while a store has it open.
func destroy(t *testing.T, path, text string) {
	t.Helper()
	content, err := os.ReadFile(path)
	must(t, err)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	n := 0
	for page := 2; page < len(content)/pageSize; page++ {
		if bytes.Contains(content[page*pageSize:(page+1)*pageSize], []byte(text)) {
			_, err := f.WriteAt(make([]byte, pageSize), int64(page*pageSize))
			must(t, err)
			n++
		}
	}
	must(t, f.Close())
	if n == 0 {
		t.Fatalf("no page has %q", text)
	}
}

// TestDamagedWhileOpen: a file that becomes damaged under an open store has a state of that name,
// whoever finds it; nothing is written to it any more; what can be read still is; and the next
// Open saves what there is.
func TestDamagedWhileOpen(t *testing.T) {
	for _, tt := range []struct {
		name string
		find func(s *Store, a uint64) error
	}{
		{"by a commit", func(s *Store, a uint64) error {
			return commitNow(s, &session.Subscribed{Client: "a", Subscription: packet.Subscription{Filter: "another"}})
		}},
		{"by one who reads", func(s *Store, _ uint64) error {
			return s.Restore(func(session.Change) {})
		}},
		{"by a compaction", func(s *Store, _ uint64) error {
			return s.file.compact() // which nothing disturbs: nobody has anything to commit
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := storePath(t)
			s := open(t, path, Options{probe: time.Millisecond})
			a := openSession(t, s, "a")
			var changes []session.Change
			for _, filter := range manyFilters {
				changes = append(changes, &session.Subscribed{Client: "a", Subscription: packet.Subscription{Filter: filter}})
			}
			must(t, commitNow(s, append(changes, enqueue("kept", to("a", a)))...))
			destroy(t, path, manyFilters[0])
			if err := tt.find(s, a); !errors.Is(err, ErrDamaged) {
				t.Fatalf("it was not found: %v", err)
			}
			before, err := os.ReadFile(path)
			must(t, err)
			if state, remedy := StateOf(s.Stats().LastError); state != Damaged || remedy == "" {
				t.Errorf("state %s, %q", state, remedy)
			}
			if err := commitNow(s, enqueue("refused", to("a", a)), enqueue("refused", to("a", a))); !errors.Is(err, ErrDamaged) {
				t.Errorf("a message for a damaged store: %v", err)
			}
			if got := payloads(t, s, "a"); len(got) != 1 || got[0] != "kept" {
				t.Errorf("queue %q", got)
			}
			if err := s.Close(); !errors.Is(err, ErrDamaged) {
				t.Errorf("Close: %v", err)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
				t.Errorf("a damaged file was written: %v", err)
			}
			s = open(t, path, Options{})
			if saved := s.Stats().Salvaged; saved == nil || saved.Sessions != 1 || saved.Messages != 1 || saved.Problems == 0 {
				t.Errorf("%+v", saved)
			}
			if got := payloads(t, s, "a"); len(got) != 1 || got[0] != "kept" {
				t.Errorf("queue after it %q", got)
			}
			must(t, commitNow(s, enqueue("after", to("a", a))))
		})
	}
}

// manyFilters are enough for their bucket to have pages of its own.
var manyFilters = func() (filters []string) {
	for c := range byte(26) {
		filters = append(filters, string(bytes.Repeat([]byte{'a' + c}, 400)))
	}
	return filters
}()

// TestOpenDistrusts: a file that looks sound but cannot be opened, or that is not to be trusted, is
// set aside like one that is damaged, and all of it is saved.
func TestOpenDistrusts(t *testing.T) {
	content := filled(t)
	unopenable := bytes.Clone(content)
	for page := range 2 { // a list of free pages that is none: bbolt panics
		meta := unopenable[page*pageSize+pageHeader:][:metaSize]
		binary.LittleEndian.PutUint64(meta[32:], 3)
		sum := fnv.New64a()
		sum.Write(meta[:metaSize-8])
		binary.LittleEndian.PutUint64(meta[metaSize-8:], sum.Sum64())
	}
	for _, tt := range []struct {
		name    string
		content []byte
		suspect error
	}{
		{"it cannot be opened", unopenable, nil},
		{"it cannot be read", content, errors.New("it could not be read")},
	} {
		path := storePath(t)
		must(t, os.WriteFile(path, tt.content, 0o600))
		must(t, verify(path))
		s, err := Open(path, Options{Suspect: tt.suspect})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if saved := s.Stats().Salvaged; saved == nil || saved.Sessions != 2 || saved.Messages != 79 || saved.Retained != 20 || saved.Problems != 0 {
			t.Errorf("%s: %+v", tt.name, saved)
		}
		must(t, s.Close())
		checkClean(t, path)
	}
}

// TestSalvageTime: a salvaged store knows of the time what the damaged one knew, or at least what the
// records knew that are left of it.
func TestSalvageTime(t *testing.T) {
	const ahead = 24 * time.Hour // of the clock of this machine, which the store must not ask
	for _, tt := range []struct {
		name string
		lose [][]byte // keys of bucket meta
		boot uint64   // after three starts of the machine, and one more
	}{
		{"all is known", nil, 4},
		{"the starts are lost", [][]byte{keyStarts}, 4},
		{"the number is lost", [][]byte{keyBoot}, 4},
		{"both are lost", [][]byte{keyStarts, keyBoot}, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := storePath(t)
			for range 3 {
				s := open(t, path, Options{Clock: &day{off: ahead, known: true}})
				a := openSession(t, s, "a")
				must(t, commitNow(s, enqueue("message", to("a", a))))
				must(t, s.Close())
				restartMachine(t, path)
			}
			f, err := openFile(path, 1<<30)
			must(t, err)
			must(t, f.update(func(tx *bolt.Tx) error {
				for _, key := range tt.lose {
					must(t, tx.Bucket(bucketNames[bucketMeta]).Put(key, []byte("unreadable")))
				}
				return nil
			}))
			must(t, f.close())
			clock := &day{off: -50 * 365 * 24 * time.Hour} // the battery is empty
			s := open(t, path, Options{Clock: clock, Suspect: errors.New("a test")})
			if saved := s.Stats().Salvaged; saved == nil || saved.Messages != 3 || saved.Problems != 0 {
				t.Fatalf("%+v", saved)
			}
			if s.clock.boot != tt.boot {
				t.Errorf("this is start %d of the machine, want %d", s.clock.boot, tt.boot)
			}
			if off := time.Until(clock.raised) - ahead; off.Abs() > time.Minute {
				t.Errorf("the floor is %v away from the newest time", off)
			}
			must(t, s.Close())
			// What nobody can date now is not dated by this start later.
			restartMachine(t, path)
			s = open(t, path, Options{Clock: &day{off: 2 * ahead, known: true}})
			found, err := s.Read("a", 0, 10)
			must(t, err)
			for _, q := range found {
				if m := q.Message; !m.Undated && (m.Waited < 0 || m.Waited > 3*ahead) {
					t.Errorf("it has waited %v", m.Waited)
				}
			}
		})
	}
}

// TestUndatedStays: a message that nobody could date is not dated by being written again.
func TestUndatedStays(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{})
	a := openSession(t, s, "a")
	e := enqueue("reading", to("a", a))
	e.Message.Undated, e.Message.Waited = true, time.Hour
	must(t, commitNow(s, e, &session.Retained{Message: &session.Message{Publish: publish("r", "reading"), Undated: true}}))
	for range 2 {
		found, err := s.Read("a", 0, 1)
		must(t, err)
		if m := found[0].Message; !m.Undated || m.Waited != time.Hour {
			t.Errorf("undated %t, it has waited %v", m.Undated, m.Waited)
		}
		must(t, s.Restore(func(c session.Change) {
			if r, ok := c.(*session.Retained); ok && !r.Message.Undated {
				t.Error("the retained one is dated")
			}
		}))
		must(t, s.Close())
		restartMachine(t, path)
		s = open(t, path, Options{Suspect: errors.New("a test")})
	}
}

// TestDiscard: a file of which nothing is to be saved is set aside all the same.
func TestDiscard(t *testing.T) {
	content := filled(t)
	path := storePath(t)
	must(t, os.WriteFile(path, content, 0o600))
	s := open(t, path, Options{Suspect: errors.New("a test"), Discard: true})
	saved := s.Stats().Salvaged
	if saved == nil || saved.Sessions+saved.Messages+saved.Retained != 0 || saved.Problems == 0 {
		t.Fatalf("%+v", saved)
	}
	if aside, err := os.ReadFile(saved.Aside); err != nil || !bytes.Equal(aside, content) {
		t.Errorf("what was set aside is not what was there: %v", err)
	}
}

// TestSalvageNeedsRoom: while the disk takes nothing, a damaged file stays where it is; what can be read of
// it is saved when there is room again.
func TestSalvageNeedsRoom(t *testing.T) {
	for _, cause := range []error{
		&os.PathError{Op: "write", Err: syscall.ENOSPC}, &os.PathError{Op: "write", Err: syscall.EIO},
	} {
		path := storePath(t)
		must(t, os.WriteFile(path, filled(t), 0o600))
		commits := 0
		o := Options{Suspect: errors.New("a test"), commit: func(db *bolt.DB, fn func(*bolt.Tx) error) error {
			if commits++; commits > 2 { // the first messages
				return cause
			}
			return commit(db, fn)
		}}
		if _, err := Open(path, o); !errors.Is(err, cause) || errors.Is(err, ErrDamaged) {
			t.Errorf("%v: %v", cause, err)
		}
		if beside, _ := filepath.Glob(path + ".[^l]*"); len(beside) != 0 { // but the lock
			t.Errorf("%v: it was set aside, or half a copy takes room: %q", cause, beside)
		}
		s := open(t, path, Options{Suspect: o.Suspect})
		if saved := s.Stats().Salvaged; saved == nil || saved.Messages != 79 || saved.Problems != 0 {
			t.Errorf("%v: %+v", cause, saved)
		}
	}
}

// An unreadable file is one of which the disk does not give one page.
type unreadable struct {
	*os.File
	page int64
	err  error
}

func (u unreadable) ReadAt(b []byte, off int64) (int, error) {
	if at := u.page * pageSize; off < at+pageSize && at < off+int64(len(b)) {
		return 0, &os.PathError{Op: "read", Err: u.err}
	}
	return u.File.ReadAt(b, off)
}

// TestUnreadableNow: what cannot be read for a reason that passes is not damaged, and nothing is left out
// when something is saved of it. What the disk has lost is.
func TestUnreadableNow(t *testing.T) {
	path := storePath(t)
	content := filled(t)
	must(t, os.WriteFile(path, content, 0o600))
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	var o Options
	o.defaults()
	used := 0
	for page := range int64(len(content) / pageSize) {
		lost := unreadable{f, page, syscall.EIO}
		if err := verifyImage(lost); page > 1 && err == nil {
			continue // nothing is on it
		} else if page > 1 && !errors.Is(err, ErrDamaged) {
			t.Errorf("page %d is lost: %v", page, err)
		}
		used++
		for _, cause := range []error{syscall.ENOMEM, syscall.ENFILE} {
			now := unreadable{f, page, cause}
			if err := verifyImage(now); !errors.Is(err, cause) || errors.Is(err, ErrDamaged) {
				t.Errorf("page %d: %v: %v", page, cause, err)
			}
			to := path + ".new"
			must(t, create(to, o.hard()))
			if saved, err := salvageImage(now, to, o); !errors.Is(err, cause) || errors.Is(err, ErrDamaged) {
				t.Errorf("page %d: %v: saved %+v, %v", page, cause, saved, err)
			}
		}
	}
	if used < 8 {
		t.Errorf("only %d pages are in use", used)
	}
}

// TestFinishedStays: what was saved of a damaged file, and cannot be opened at the next start, is not
// replaced by an empty store.
func TestFinishedStays(t *testing.T) {
	path := storePath(t)
	fresh := path + ".new"
	must(t, os.Symlink(fresh, fresh)) // it cannot be opened
	if s, err := Open(path, Options{}); !errors.Is(err, syscall.ELOOP) {
		if err == nil {
			must(t, s.Close())
		}
		t.Fatalf("Open: %v", err)
	}
	must(t, os.Remove(fresh))
	must(t, os.WriteFile(fresh, filled(t), 0o600))
	s := open(t, path, Options{})
	if n := len(payloads(t, s, "b")); n != 20 {
		t.Errorf("%d messages", n)
	}
}

// TestSalvageShared: messages that many queues share are all saved, although they need more room apart than
// the quota has. New ones are refused until there is some.
func TestSalvageShared(t *testing.T) {
	const queues, messages = 20, 20
	path := storePath(t)
	o := Options{MaxBytes: 4 << 20, probe: time.Millisecond}
	s := open(t, path, o)
	numbers := make(map[string]uint64)
	for i := range queues {
		client := fmt.Sprint("client-", i)
		numbers[client] = openSession(t, s, client)
	}
	for range messages {
		var all []*session.Target
		for client, number := range numbers {
			all = append(all, to(client, number))
		}
		must(t, commitNow(s, enqueue(string(make([]byte, 100_000)), all...)))
	}
	must(t, s.Close())
	o.Suspect = errors.New("a test")
	s = open(t, path, o)
	if saved := s.Stats().Salvaged; saved == nil || saved.Messages != queues*messages || saved.Problems != 0 {
		t.Errorf("%+v", saved)
	}
	if s.Stats().FileBytes <= o.hard() {
		t.Errorf("%d bytes fit into %d: the test shows nothing", s.Stats().FileBytes, o.hard())
	}
	must(t, s.Close())
	o.Suspect = nil
	s = open(t, path, o)
	must(t, s.Restore(func(c session.Change) {
		if opened, ok := c.(*session.Opened); ok {
			numbers[opened.Client] = opened.Incarnation
		}
	}))
	first := ""
	for client, number := range numbers {
		first = client
		if n := len(payloads(t, s, client)); n != messages {
			t.Errorf("%d messages for %s", n, client)
		}
		if err := commitNow(s, enqueue("new", to(client, number))); !errors.Is(err, ErrFull) {
			t.Errorf("a new message for %s: %v", client, err)
		}
	}
	for client := range numbers {
		var changes []session.Change
		for position := range uint64(messages) {
			changes = append(changes, &session.Advanced{Client: client, Position: position + 1, Stage: session.Done})
		}
		must(t, commitNow(s, changes...))
	}
	eventually(t, "there is room again", func() bool {
		return commitNow(s, enqueue("new", to(first, numbers[first]))) == nil
	})
}
