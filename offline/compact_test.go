package offline

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"gateway/broker/session"
)

// drain fills a queue with some megabytes and acknowledges all but the last message.
func drain(t *testing.T, s *Store, client string, incarnation uint64, most int) {
	t.Helper()
	var last *session.Enqueued
	for range most {
		var changes []session.Change
		for range 100 {
			last = enqueue(string(make([]byte, 4000)), to(client, incarnation))
			changes = append(changes, last)
		}
		must(t, commitNow(s, changes...))
	}
	var done []session.Change
	for position := uint64(1); position < last.To[0].Position; position++ {
		done = append(done, &session.Advanced{Client: client, Position: position, Stage: session.Done})
	}
	must(t, commitNow(s, done...))
}

// TestCompaction: a file that is nearly empty becomes small while the store is in use, nothing is
// lost or seen twice by those who read meanwhile, and the next commit after it is as safe as before.
func TestCompaction(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{compact: 1 << 20})
	a, b := openSession(t, s, "a"), openSession(t, s, "b")
	must(t, commitNow(s, enqueue("kept", to("b", b))))
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if found, err := s.Read("b", 0, 10); err != nil || len(found) == 0 || string(found[0].Message.Publish.Payload) != "kept" {
					t.Errorf("read while it was compacted: %v, %v", found, err)
					return
				}
			}
		})
	}
	for round := range 3 {
		drain(t, s, "a", a, 10)
		eventually(t, "the file is small", func() bool { return s.Stats().FileBytes < 200<<10 })
		must(t, commitNow(s, enqueue(fmt.Sprint(round), to("b", b))))
		must(t, commitNow(s, &session.Removed{Client: "a"}))
		a = openSession(t, s, "a")
	}
	close(stop)
	readers.Wait()
	if n := s.Stats().Compactions; n < 3 {
		t.Errorf("%d compactions", n)
	}
	must(t, s.Close())
	checkClean(t, path)
	s = open(t, path, Options{})
	if got := payloads(t, s, "b"); len(got) != 4 {
		t.Errorf("queue %q", got)
	}
}

// TestCompactionFails: a file that cannot be replaced stays, and a folder that cannot be flushed holds
// up the next commit, which a power cut could take back.
func TestCompactionFails(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{compact: 1 << 20})
	a := openSession(t, s, "a")
	must(t, os.Mkdir(path+compactSuffix, 0o700))
	must(t, os.WriteFile(filepath.Join(path+compactSuffix, "file"), nil, 0o600))
	drain(t, s, "a", a, 10)
	eventually(t, "it was tried", func() bool { return s.Stats().Compactions > 0 })
	must(t, commitNow(s, enqueue("after", to("a", a))))
	if n := s.Stats().Compactions; n != 1 || s.Stats().FileBytes < 1<<20 {
		t.Errorf("%d attempts, %d bytes", n, s.Stats().FileBytes)
	}
	must(t, s.Close())
	checkClean(t, path)

	f, err := openFile(path, 1<<30)
	must(t, err)
	f.unsynced, f.path = true, filepath.Join(filepath.Dir(path), "gone", "store.db")
	if err := f.update(nil); err == nil {
		t.Error("a commit to a file whose folder could not be flushed")
	}
	must(t, f.close())
}

// TestCompactionIsCut: what a power cut leaves of a compaction is not taken for a store.
func TestCompactionIsCut(t *testing.T) {
	content := filled(t)
	for _, left := range [][]byte{nil, content[:len(content)/2], content} {
		path := storePath(t)
		must(t, os.WriteFile(path, content, 0o600))
		must(t, os.WriteFile(path+compactSuffix, left, 0o600))
		must(t, os.WriteFile(path+".new", left, 0o600))
		s := open(t, path, Options{})
		if s.Stats().Salvaged != nil {
			t.Error("it was set aside")
		}
		must(t, s.Close())
		for _, suffix := range []string{compactSuffix, ".new"} {
			if _, err := os.Stat(path + suffix); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %v", suffix, err)
			}
		}
	}
}

// TestCompactFile: the command for a gateway that does not run.
func TestCompactFile(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{compact: 1 << 40})
	a := openSession(t, s, "a")
	drain(t, s, "a", a, 10)
	if _, _, err := Compact(path); !errors.Is(err, ErrInUse) {
		t.Errorf("compacted while it was open: %v", err)
	}
	must(t, s.Close())
	before, after, err := Compact(path)
	if err != nil || before < 1<<20 || after > 200<<10 {
		t.Errorf("from %d to %d bytes, %v", before, after, err)
	}
	if r := checkClean(t, path); r.Messages != 1 {
		t.Errorf("%+v", r)
	}
	if _, _, err := Compact(path + ".none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestBackup: a backup of a store in use is what it was at one moment, and can take its place.
func TestBackup(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{})
	a := openSession(t, s, "a")
	stop := make(chan struct{})
	var writers sync.WaitGroup
	writers.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				must(t, commitNow(s, enqueue(fmt.Sprint(i), to("a", a))))
			}
		}
	})
	backup := path + ".backup"
	for range 5 {
		time.Sleep(10 * time.Millisecond) // something happens between backups
		must(t, removeIf(backup))
		must(t, Save(backup, func(w io.Writer) error {
			size := int64(0)
			var copied bytes.Buffer
			err := s.Backup(&copied, func(n int64) error { size = n; return nil })
			if int64(copied.Len()) != size {
				t.Errorf("%d bytes, %d were announced", copied.Len(), size)
			}
			_, failed := w.Write(copied.Bytes())
			return errors.Join(err, failed)
		}))
		checkClean(t, backup)
	}
	close(stop)
	writers.Wait()
	if _, err := RestoreBackup(backup, path); !errors.Is(err, ErrInUse) {
		t.Errorf("restored under an open store: %v", err)
	}
	if err := Copy(path, backup+"2"); !errors.Is(err, ErrInUse) {
		t.Errorf("copied an open store: %v", err)
	}
	must(t, s.Close())
	all := checkClean(t, path).Messages
	had := checkClean(t, backup).Messages
	aside, err := RestoreBackup(backup, path)
	must(t, err)
	if n := checkClean(t, path).Messages; n != had || checkClean(t, aside).Messages != all || had > all {
		t.Errorf("%d messages, %d in the backup, %d before", n, had, all)
	}
	s = open(t, path, Options{})
	for i, p := range payloads(t, s, "a") {
		if p != fmt.Sprint(i) {
			t.Fatalf("message %d is %s", i, p)
		}
	}
	must(t, s.Close())
	must(t, Copy(path, backup+"2"))
	if checkClean(t, backup+"2").Messages != had {
		t.Error("the copy is not the store")
	}
	if err := Copy(path, backup); err == nil {
		t.Error("a backup was overwritten")
	}
	must(t, os.WriteFile(backup, []byte("half"), 0o600))
	if _, err := RestoreBackup(backup, path); !errors.Is(err, ErrDamaged) {
		t.Errorf("restored what is no store: %v", err)
	}
}

// TestRestoredIsStrange: a backup that is put back knows no identifiers of messages that came before it was made,
// which their clients use for others by now, and frees those that are given out next.
func TestRestoredIsStrange(t *testing.T) {
	path := storePath(t)
	s := open(t, path, Options{})
	a := openSession(t, s, "a")
	openSession(t, s, "b")
	must(t, commitNow(s, enqueue("one", to("a", a)), &session.Received{Client: "a", ID: 7}))
	must(t, s.Close())
	backup := filepath.Join(t.TempDir(), "backup")
	must(t, Copy(path, backup))
	_, err := RestoreBackup(backup, path)
	must(t, err)
	checkClean(t, path)
	for _, suspect := range []error{nil, errors.New("a test")} { // salvaged, too
		s = open(t, path, Options{Suspect: suspect})
		strange := make(map[string]uint64)
		must(t, s.Restore(func(c session.Change) {
			if c, ok := c.(*session.Summary); ok {
				strange[c.Client] = c.Strange
				if len(c.Received) > 0 {
					t.Errorf("%s has received %d", c.Client, c.Received)
				}
			}
		}))
		if strange["a"] != 2+session.Span || strange["b"] != 1+session.Span {
			t.Errorf("positions before which receivers may know others: %v", strange)
		}
		if got := payloads(t, s, "a"); len(got) != 1 {
			t.Errorf("queue %q", got)
		}
		must(t, s.Close())
	}
}

// TestLink: a store behind a link stays where it is, and the link a link, whatever takes its place.
func TestLink(t *testing.T) {
	card, disk := t.TempDir(), t.TempDir()
	link, real := filepath.Join(card, "store.db"), filepath.Join(disk, "real.db")
	must(t, os.Symlink(real, link))
	if _, err := Open(link, Options{}); !errors.Is(err, os.ErrNotExist) { // the disk may not be there yet
		t.Errorf("a link to nothing: %v", err)
	}
	s := open(t, real, Options{})
	must(t, s.Close())
	backup := filepath.Join(t.TempDir(), "backup")
	for _, tt := range []struct {
		name string
		do   func() error
	}{
		{"compaction", func() error {
			s := open(t, link, Options{})
			return errors.Join(s.file.compact(), s.Close())
		}},
		{"salvage", func() error { return open(t, link, Options{Suspect: errors.New("a test")}).Close() }},
		{"command compact", func() error { _, _, err := Compact(link); return err }},
		{"backup", func() error { return Copy(link, backup) }},
		{"restore", func() error { _, err := RestoreBackup(backup, link); return err }},
	} {
		must(t, tt.do())
		if to, err := os.Readlink(link); err != nil || to != real {
			t.Errorf("%s: the link is %q %v", tt.name, to, err)
		}
		checkClean(t, real)
		if there, _ := filepath.Glob(card + "/*"); len(there) != 1 {
			t.Errorf("%s: the folder of the link has %q", tt.name, there)
		}
	}
}

// TestCompactNothing: where there is no store, no lock is left.
func TestCompactNothing(t *testing.T) {
	path := storePath(t)
	if _, _, err := Compact(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Compact: %v", err)
	}
	if there, _ := filepath.Glob(path + "*"); len(there) != 0 {
		t.Errorf("it has left %q", there)
	}
}

// TestOwner: what root makes with a command, the gateway can open.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	const somebody = 12345
	path := storePath(t)
	must(t, os.Chown(filepath.Dir(path), somebody, somebody))
	s := open(t, path, Options{})
	must(t, s.Close())
	must(t, os.Chown(path, somebody, somebody))
	_, _, err := Compact(path)
	must(t, err)
	backup := filepath.Join(t.TempDir(), "backup")
	must(t, Copy(path, backup))
	check := func() {
		t.Helper()
		for _, file := range []string{path, path + ".lock"} {
			info, err := os.Stat(file)
			must(t, err)
			if is := info.Sys().(*syscall.Stat_t); is.Uid != somebody || is.Gid != somebody {
				t.Errorf("%s belongs to %d, %d", file, is.Uid, is.Gid)
			}
		}
	}
	check()
	_, err = RestoreBackup(backup, path)
	must(t, err)
	check()
}

// TestBackupHoldsNobodyUp: while somebody reads for long, commits go on, however large the file becomes.
func TestBackupHoldsNobodyUp(t *testing.T) {
	s := open(t, storePath(t), Options{})
	a := openSession(t, s, "a")
	must(t, s.Backup(io.Discard, func(int64) error {
		for range 10 {
			done := make(chan error, 1)
			s.Submit([]session.Change{enqueue(string(make([]byte, 1<<20)), to("a", a))}, false, func(err error) { done <- err })
			select {
			case err := <-done:
				must(t, err)
			case <-time.After(10 * time.Second):
				t.Error("a commit waits for a backup")
				return nil
			}
		}
		return nil
	}))
}
