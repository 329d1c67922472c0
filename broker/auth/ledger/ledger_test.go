package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gateway/broker/auth/ledger"
)

type entry struct {
	Name  string `json:"name"`
	Count int    `json:"count,omitempty"`
}

func names(t *testing.T, l *ledger.Ledger[entry]) string {
	t.Helper()
	all, err := l.Read()
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, e := range all {
		s = append(s, e.Name)
	}
	return strings.Join(s, " ")
}

func add(name string) func([]entry) ([]entry, error) {
	return func(all []entry) ([]entry, error) { return append(all, entry{Name: name}), nil }
}

func TestChange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "entries")
	l := ledger.New[entry](path, "entries")
	if got := names(t, l); got != "" {
		t.Errorf("a file that is not there has %q", got)
	}
	for _, name := range []string{"a", "b <&>", "c"} {
		if err := l.Change(add(name)); err != nil {
			t.Fatal(err)
		}
	}
	broken := errors.New("broken")
	if err := l.Change(func([]entry) ([]entry, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	if got := names(t, ledger.New[entry](path, "entries")); got != "a b <&> c" {
		t.Errorf("it has %q", got)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	left, err := filepath.Glob(path + ".new*")
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// What many change at the same time is all there afterwards: each has a lock of its own, as
// processes have.
func TestConcurrentChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "entries")
	var work sync.WaitGroup
	for i := range 8 {
		work.Go(func() {
			l := ledger.New[entry](path, "entries")
			for j := range 5 {
				if err := l.Change(add(fmt.Sprintf("%d-%d", i, j))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	work.Wait()
	if got := len(strings.Fields(names(t, ledger.New[entry](path, "entries")))); got != 40 {
		t.Errorf("%d entries, want 40", got)
	}
}

func TestBadFiles(t *testing.T) {
	for _, tt := range []struct {
		text string
		mode os.FileMode
		want string
	}{
		{`{"ledger":"others","version":1}`, 0o600, ":1: this is no file of entries"},
		{``, 0o600, "is empty"},
		{`[]`, 0o600, ":1: this is no file of entries"},
		{`{"ledger":"entries","version":2}`, 0o600, ":1: version 2 is not known here; use the gateway that wrote it"},
		{"{\"ledger\":\"entries\",\"version\":1}\n\n{\"name\":\"a\",\"cuont\":1}", 0o600, `:3: unknown field "cuont"`},
		{"{\"ledger\":\"entries\",\"version\":1}\n{\"name\":\"a\"}{\"name\":\"b\"}", 0o600, ":2: more than one JSON object"},
		{"{\"ledger\":\"entries\",\"version\":1}\n{\"name\":", 0o600, ":2: unexpected EOF"},
		{`{"ledger":"entries","version":1}`, 0o620, "can be changed by others; run: chmod 600 "},
		{`{"ledger":"entries","version":1}`, 0o640, ""},
	} {
		path := filepath.Join(t.TempDir(), "entries")
		if err := os.WriteFile(path, []byte(tt.text), tt.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, tt.mode); err != nil {
			t.Fatal(err)
		}
		l := ledger.New[entry](path, "entries")
		_, err := l.Read()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.text, err, tt.want)
		}
		if tt.want == "" {
			continue
		}
		if err := l.Change(add("x")); err == nil {
			t.Errorf("%s: it is changed", tt.text)
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != tt.text {
			t.Errorf("%s has become %s, %v", tt.text, after, err)
		}
	}
}

// The kernel tells of changes, but not in a folder that is not there yet.
func TestFollow(t *testing.T) {
	t.Run("told", func(t *testing.T) { follow(t, t.TempDir()) })
	t.Run("untold", func(t *testing.T) { follow(t, filepath.Join(t.TempDir(), "later")) })
}

func follow(t *testing.T, folder string) {
	path := filepath.Join(folder, "entries")
	l := ledger.New[entry](path, "entries")
	seen := make(chan string) // unbuffered: each look waits until it is asked for
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Follow(ctx, time.Millisecond, func(all []entry, err error) {
			select {
			case seen <- fmt.Sprint(len(all), err):
			case <-ctx.Done():
			}
		})
	}()
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-seen:
			if !strings.Contains(got, want) {
				t.Errorf("seen %s, want %s", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s is not seen", want)
		}
	}
	expect("0 <nil>")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < 4; i++ {
		if err := l.Change(add("x")); err != nil {
			t.Fatal(err)
		}
		expect(fmt.Sprint(i, " <nil>"))
	}
	if err := os.WriteFile(path+"~", []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		t.Fatal(err)
	}
	expect("no file of entries")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	expect("0 <nil>")
	cancel()
	<-done
}

// A link in the place of the lock leads nobody to another file.
func TestLockIsNoLink(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "entries")
	victim := filepath.Join(folder, "victim")
	if err := os.Symlink(victim, path+".lock"); err != nil {
		t.Fatal(err)
	}
	for _, there := range []bool{false, true} {
		if there {
			if err := os.WriteFile(victim, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := ledger.New[entry](path, "entries").Change(add("a")); err == nil {
			t.Errorf("a file at the end of a link (there: %t) was opened", there)
		}
		if _, err := os.Stat(victim); !there && err == nil {
			t.Error("a file at the end of a link was made")
		}
	}
}
