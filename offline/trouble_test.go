package offline

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// TestTrouble goes through what can happen to a store while it is in use: what state that is, that
// it is refused and not lost, and that the store is ready again when the cause is gone, though nobody
// asks it for anything.
func TestTrouble(t *testing.T) {
	for _, tt := range []struct {
		name  string
		cause error // of each write, or of the last flush
		after bool
		state State
	}{
		{"no room", &os.PathError{Op: "write", Err: syscall.ENOSPC}, false, Full},
		{"no room at the last flush", fmt.Errorf("fdatasync: %w", syscall.ENOSPC), true, Full},
		{"no quota of the user", &os.PathError{Op: "write", Err: syscall.EDQUOT}, false, Full},
		{"an I/O error", &os.PathError{Op: "write", Err: syscall.EIO}, false, Broken},
		{"an I/O error at the last flush", fmt.Errorf("fdatasync: %w", syscall.EIO), true, Broken},
		{"a read-only file system", &os.PathError{Op: "write", Err: syscall.EROFS}, false, ReadOnly},
		{"a file that cannot grow", errors.New("file resize error: truncate: input/output error"), false, Broken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var fails atomic.Bool
			path := storePath(t)
			s := open(t, path, Options{probe: 10 * time.Millisecond, commit: func(db *bolt.DB, fn func(*bolt.Tx) error) error {
				if !fails.Load() {
					return commit(db, fn)
				}
				if tt.after {
					return errors.Join(commit(db, fn), tt.cause)
				}
				return tt.cause
			}})
			a := openSession(t, s, "a")
			must(t, commitNow(s, enqueue("before", to("a", a))))
			fails.Store(true)
			if err := commitNow(s, enqueue("refused", to("a", a))); err == nil {
				t.Fatal("it was taken")
			}
			if state, remedy := StateOf(s.Stats().LastError); state != tt.state || remedy == "" {
				t.Errorf("state %s, %q", state, remedy)
			}
			if got := payloads(t, s, "a"); len(got) != 1 || got[0] != "before" {
				t.Errorf("queue %q", got)
			}
			fails.Store(false)
			eventually(t, "it is ready again", func() bool { return s.Stats().LastError == nil })
			must(t, commitNow(s, enqueue("after", to("a", a))))
			if got := payloads(t, s, "a"); len(got) != 2 || got[1] != "after" {
				t.Errorf("queue %q", got)
			}
			must(t, s.Close())
			checkClean(t, path)
		})
	}
}

// TestTroubleAtOpening goes through what a start may find: either the store opens, with what could be
// saved, or it says in which state it is, changes nothing, and opens when the cause is gone.
func TestTroubleAtOpening(t *testing.T) {
	content := filled(t)
	write := func(b []byte) func(*testing.T, string) {
		return func(t *testing.T, path string) { must(t, os.WriteFile(path, b, 0o600)) }
	}
	later := func(t *testing.T, path string) {
		write(content)(t, path)
		f, err := openFile(path, 1<<30)
		must(t, err)
		must(t, f.update(func(tx *bolt.Tx) error {
			return tx.Bucket(bucketNames[bucketMeta]).Put(keyFormat, numberRecord(formatVersion+1))
		}))
		must(t, f.close())
	}
	for _, tt := range []struct {
		name  string
		make  func(t *testing.T, path string)
		state State
		mend  func(t *testing.T, path string) // nil: it opens at once
		aside bool
	}{
		{name: "nothing", make: func(*testing.T, string) {}, state: Ready},
		{name: "an empty file", make: write(nil), state: Ready, aside: true},
		{name: "half a file", make: write(content[:len(content)/2]), state: Ready, aside: true},
		{name: "something else", make: write([]byte("#!/bin/sh\necho hello\n")), state: Ready, aside: true},
		{name: "an unfinished new file", make: func(t *testing.T, path string) { write(content[:5000])(t, path+".new") }, state: Ready},
		{name: "a later version", make: later, state: Later, mend: func(t *testing.T, path string) { must(t, os.Rename(path, path+".later")) }},
		{name: "another process", state: InUse,
			make: func(t *testing.T, path string) {
				lock, err := lockFile(path + ".lock")
				must(t, err)
				locks = append(locks, lock)
			},
			mend: func(t *testing.T, _ string) {
				must(t, locks[len(locks)-1].Close())
			}},
		{name: "no folder", state: Broken,
			make: func(t *testing.T, path string) { must(t, os.Remove(filepath.Dir(path))) },
			mend: func(t *testing.T, path string) { must(t, os.Mkdir(filepath.Dir(path), 0o700)) }},
		{name: "a folder in its place", state: Broken,
			make: func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) },
			mend: func(t *testing.T, path string) { must(t, os.Remove(path)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "data", "store.db")
			must(t, os.Mkdir(filepath.Dir(path), 0o700))
			tt.make(t, path)
			before := fileTree(t, filepath.Dir(path))
			s, err := Open(path, Options{})
			state, remedy := StateOf(err)
			if state != tt.state || (remedy == "") != (state == Ready) {
				t.Fatalf("state %s (%v), %q", state, err, remedy)
			}
			if tt.mend != nil {
				after := fileTree(t, filepath.Dir(path))
				delete(after, "store.db.lock")
				delete(before, "store.db.lock")
				if fmt.Sprint(after) != fmt.Sprint(before) {
					t.Errorf("before %v, after %v", before, after)
				}
				tt.mend(t, path)
				s, err = Open(path, Options{})
			}
			must(t, err)
			if saved := s.Stats().Salvaged; (saved != nil) != tt.aside {
				t.Errorf("salvaged %+v", saved)
			}
			n := openSession(t, s, "new")
			must(t, commitNow(s, enqueue("new", to("new", n))))
			must(t, s.Close())
			checkClean(t, path)
		})
	}
}

var locks []*os.File // of TestTroubleAtOpening

// fileTree returns the sizes of the files in a folder.
func fileTree(t *testing.T, folder string) map[string]int64 {
	t.Helper()
	sizes := make(map[string]int64)
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return sizes
	}
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		sizes[e.Name()] = info.Size()
	}
	return sizes
}

// TestReadOnlyMount: the file system under an open store becomes read-only, and writable again.
func TestReadOnlyMount(t *testing.T) {
	folder := t.TempDir()
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	defer func() { must(t, syscall.Unmount(folder, 0)) }()
	path := filepath.Join(folder, "store.db")
	must(t, os.WriteFile(path+".marker", nil, 0o600))
	must(t, syscall.Mount("tmpfs", folder, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	if _, err := Open(path, Options{}); err == nil {
		t.Error("a store was made on a read-only file system")
	} else if state, _ := StateOf(err); state != ReadOnly {
		t.Errorf("%s: %v", state, err)
	}
	must(t, syscall.Mount("tmpfs", folder, "tmpfs", syscall.MS_REMOUNT, ""))
	s, err := Open(path, Options{})
	must(t, err)
	a := openSession(t, s, "a")
	must(t, commitNow(s, enqueue("m", to("a", a))))
	must(t, s.Close())
	checkClean(t, path)
}
