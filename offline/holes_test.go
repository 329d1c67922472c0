package offline

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/broker/session"
)

// backlog keeps messages of 10 KB, by turns three for a session a and one for b, until b has n.
func backlog(t *testing.T, s *Store, n int) (a, b uint64) {
	t.Helper()
	a, b = openSession(t, s, "a"), openSession(t, s, "b")
	for i := range n {
		text := fmt.Sprintf("%05d %010000d", i, 0)
		must(t, commitNow(s, enqueue(text, to("a", a)), enqueue(text, to("a", a)), enqueue(text, to("a", a)), enqueue(text, to("b", b))))
	}
	return a, b
}

// deliver acknowledges the messages of session a.
func deliver(t *testing.T, s *Store, n int) {
	t.Helper()
	var changes []session.Change
	for position := range uint64(3 * n) {
		changes = append(changes, &session.Advanced{Client: "a", Position: position + 1, Stage: session.Done})
	}
	must(t, commitNow(s, changes...))
}

// blocks returns how many bytes a file takes on the disk.
func blocks(t *testing.T, path string) int64 {
	t.Helper()
	var s unix.Stat_t
	must(t, unix.Stat(path, &s))
	return s.Blocks * 512
}

// TestHoles: the room that a backlog has taken is given back when much of it is delivered, although too
// much is left for a compaction; nothing that is left is lost, for nobody who reads meanwhile either;
// and the room is taken again when it is needed.
func TestHoles(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{compact: 1 << 40, holes: 1 << 20, sweepAt: 1})
	const n = 300
	a, b := backlog(t, s, n)
	most := blocks(t, path)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if found, err := s.Read("b", 0, n); err != nil || len(found) != n {
					t.Errorf("%d messages, %v", len(found), err)
					return
				}
				time.Sleep(time.Millisecond) // holes are made when nobody reads
			}
		})
	}
	deliver(t, s, n)
	eventually(t, "some room is given back", func() bool { return s.Stats().DiskBytes < most || s.Stats().Dead == 0 })
	close(stop)
	readers.Wait()
	eventually(t, "the room is given back", func() bool { return s.Stats().DiskBytes < most*2/3 })
	stats := s.Stats()
	if on := blocks(t, path); on != stats.DiskBytes || on < stats.FileBytes-stats.FreeBytes || stats.FileBytes < most/2 {
		t.Errorf("%d bytes on the disk, %+v", on, stats)
	}
	t.Logf("%d bytes on the disk, then %d; %d of %d are in use", most, stats.DiskBytes, stats.FileBytes-stats.FreeBytes, stats.FileBytes)
	check := func() {
		t.Helper()
		for i, p := range payloads(t, s, "b") {
			if want := fmt.Sprintf("%05d", i); p[:5] != want {
				t.Fatalf("message %s is %s", want, p[:5])
			}
		}
	}
	check()
	for i := range n { // into the holes
		must(t, commitNow(s, enqueue(fmt.Sprintf("%05d %010000d", i, 0), to("a", a)), enqueue(fmt.Sprintf("%05d", n+i), to("b", b))))
	}
	check()
	must(t, s.Close())
	if r := checkClean(t, path); r.Messages != 3*n {
		t.Errorf("%+v", r)
	}
}

// TestHolesWait: what a backup still reads is not taken from under it.
func TestHolesWait(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{compact: 1 << 40, holes: 1 << 20, sweepAt: 1})
	const n = 200
	backlog(t, s, n)
	backup := path + ".backup"
	size := int64(0)
	must(t, Save(backup, func(w io.Writer) error {
		return s.Backup(w, func(int64) error { // it is slow to begin
			deliver(t, s, n)
			eventually(t, "what is delivered is swept", func() bool { return s.Stats().Dead == 0 }) // nobody updates any more
			size = blocks(t, path)
			if _, _, err := s.file.punch(0, holePiece); err == nil {
				t.Error("holes while somebody reads")
			}
			return nil
		})
	}))
	if r := checkClean(t, backup); r.Messages != 4*n {
		t.Errorf("%+v", r)
	}
	eventually(t, "the room is given back afterwards", func() bool { return s.Stats().DiskBytes < size*2/3 })
	must(t, s.Close())
	checkClean(t, path)
}

// TestHolesRefused: a file system that makes no holes costs nothing but the room.
func TestHolesRefused(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{compact: 1 << 40, holes: 1 << 40})
	backlog(t, s, 100)
	deliver(t, s, 100)
	must(t, s.Close())
	size := blocks(t, path)
	f, err := openFile(path, 1<<30)
	must(t, err)
	must(t, sweepAll(f))
	handle := f.handle
	f.handle, err = os.Open(path) // in which no hole can be made
	must(t, err)
	c := &committer{file: f, gauge: gauge{log: slog.New(slog.DiscardHandler)}, sweepAt: 1}
	c.used = c.measure(f)
	p := &c.puncher
	if p.punch(c); time.Until(p.after) < holesPause/2 || blocks(t, path) < size {
		t.Errorf("it is tried again in %v, %d bytes of %d are left", time.Until(p.after), blocks(t, path), size)
	}
	must(t, f.handle.Close())
	f.handle = handle
	if p.after = (time.Time{}); p.due(c) != 0 {
		t.Error("it is not tried again")
	}
	f.doubt.Store(&errUnsound)
	if p.due(c) >= 0 {
		t.Error("holes are made in a file that is damaged")
	}
	if err := f.compact(); !errors.Is(err, ErrDamaged) {
		t.Errorf("a file that is damaged is compacted: %v", err)
	}
	f.doubt.Store(nil)
	for p.punch(c); p.next != 0; p.punch(c) {
	}
	if blocks(t, path) > size*2/3 {
		t.Errorf("%d bytes of %d are left", blocks(t, path), size)
	}
	must(t, f.close())
	checkClean(t, path)
}
