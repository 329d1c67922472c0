package watch

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A looker is somebody who follows a file.
type looker struct {
	t     *testing.T
	looks chan string // what was found; has room for many
}

// follow follows a file until the test ends.
func follow(t *testing.T, every time.Duration, file string) *looker {
	t.Helper()
	l := &looker{t, make(chan string, 1000)}
	ctx, stop := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() {
		Files(ctx, every, []string{file}, func() (again bool) {
			b, err := os.ReadFile(file)
			if errors.Is(err, fs.ErrNotExist) {
				b = []byte("none")
			}
			l.looks <- string(b)
			return false
		})
	})
	t.Cleanup(func() { stop(); following.Wait() })
	return l
}

// expect waits until a look has found this.
func (l *looker) expect(want string) {
	l.t.Helper()
	late := time.After(10 * time.Second)
	for {
		select {
		case found := <-l.looks:
			if found == want {
				return
			}
		case <-late:
			l.t.Fatalf("nobody has looked since there is %q", want)
		}
	}
}

// do fails the test if one of some steps has failed.
func do(t *testing.T, steps ...error) {
	t.Helper()
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
}

func write(path, text string) error { return os.WriteFile(path, []byte(text), 0o600) }

// never is longer than a test waits: if somebody looks, then because the kernel has told.
const never = time.Hour

// The kernel tells of every way in which files are replaced.
func TestChanges(t *testing.T) {
	for _, way := range []struct {
		name  string
		setUp func(dir string) error // makes the file "site/cert", which has "old", unless it is not to be there
		apply func(dir string) error // makes that "new"
	}{
		{"written in place",
			func(dir string) error { return write(dir+"/site/cert", "old") },
			func(dir string) error { return write(dir+"/site/cert", "new") }},
		{"renamed into its place",
			func(dir string) error { return write(dir+"/site/cert", "old") },
			func(dir string) error {
				return errors.Join(write(dir+"/site/x", "new"), os.Rename(dir+"/site/x", dir+"/site/cert"))
			}},
		{"made", func(string) error { return nil },
			func(dir string) error { return write(dir+"/site/cert", "new") }},
		{"linked into its place", func(dir string) error { return write(dir+"/x", "new") },
			func(dir string) error { return os.Link(dir+"/x", dir+"/site/cert") }},
		{"a link to it is replaced, as certbot does",
			func(dir string) error {
				return errors.Join(os.Mkdir(dir+"/archive", 0o700), write(dir+"/archive/cert1", "old"), write(dir+"/archive/cert2", "new"),
					os.Symlink("../archive/cert1", dir+"/site/cert"))
			},
			func(dir string) error {
				return errors.Join(os.Remove(dir+"/site/cert"), os.Symlink("../archive/cert2", dir+"/site/cert"))
			}},
		{"what a link leads to is written",
			func(dir string) error {
				return errors.Join(os.Mkdir(dir+"/archive", 0o700), write(dir+"/archive/cert", "old"), os.Symlink(dir+"/archive/cert", dir+"/site/cert"))
			},
			func(dir string) error { return write(dir+"/archive/cert", "new") }},
		{"a link to its folder is replaced, as Kubernetes does",
			func(dir string) error {
				return errors.Join(os.Mkdir(dir+"/site/..1", 0o700), write(dir+"/site/..1/cert", "old"),
					os.Symlink("..1", dir+"/site/..data"), os.Symlink("..data/cert", dir+"/site/cert"))
			},
			func(dir string) error {
				return errors.Join(os.Mkdir(dir+"/site/..2", 0o700), write(dir+"/site/..2/cert", "new"),
					os.Symlink("..2", dir+"/site/..tmp"), os.Rename(dir+"/site/..tmp", dir+"/site/..data"), os.RemoveAll(dir+"/site/..1"))
			}},
		{"its folder is replaced",
			func(dir string) error {
				return errors.Join(write(dir+"/site/cert", "old"), os.Mkdir(dir+"/next", 0o700), write(dir+"/next/cert", "new"))
			},
			func(dir string) error {
				return errors.Join(os.Rename(dir+"/site", dir+"/before"), os.Rename(dir+"/next", dir+"/site"))
			}},
		{"its folder is made", func(dir string) error { return os.Remove(dir + "/site") },
			func(dir string) error {
				return errors.Join(os.Mkdir(dir+"/site", 0o700), write(dir+"/site/cert", "new"))
			}},
		{"another name of it is written",
			func(dir string) error {
				return errors.Join(write(dir+"/x", "old"), os.Link(dir+"/x", dir+"/site/cert"))
			},
			func(dir string) error { return write(dir+"/x", "new") }},
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			do(t, os.Mkdir(dir+"/site", 0o700), way.setUp(dir))
			before := "none"
			if b, err := os.ReadFile(dir + "/site/cert"); err == nil {
				before = string(b)
			}
			l := follow(t, never, dir+"/site/cert")
			l.expect(before)
			do(t, way.apply(dir))
			l.expect("new")
			// What was put into the place is followed from now on.
			do(t, write(dir+"/site/cert", "newer"))
			l.expect("newer")
		})
	}
}

// While nothing changes nobody looks, and what is written to a file that stays open wakes nobody.
func TestQuiet(t *testing.T) {
	dir := t.TempDir()
	do(t, write(dir+"/cert", "old"))
	store, err := os.Create(filepath.Join(dir, "store"))
	do(t, err)
	defer store.Close()
	const every = 5 * time.Millisecond
	l := follow(t, every, dir+"/cert")
	l.expect("old")
	for range 40 {
		<-time.After(every)
		_, err := store.WriteString("x")
		do(t, err, store.Sync())
	}
	if n := len(l.looks); n > 0 {
		t.Errorf("%d looks at a file that has not changed", n)
	}
}

// Where others can change a file without this kernel's knowledge, one looks again and again.
func TestRemote(t *testing.T) {
	dir := t.TempDir()
	do(t, write(dir+"/cert", "old"))
	var s syscall.Statfs_t
	do(t, syscall.Statfs(dir, &s))
	others[uint32(s.Type)] = true
	defer delete(others, uint32(s.Type))
	l := follow(t, time.Millisecond, dir+"/cert")
	for range 5 {
		l.expect("old")
	}
}

// After a look that wants another there is one.
func TestAgain(t *testing.T) {
	dir := t.TempDir()
	do(t, write(dir+"/cert", "old"))
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	n := 0
	Files(ctx, time.Millisecond, []string{dir + "/cert"}, func() (again bool) {
		if n++; n == 3 {
			stop()
		}
		return true
	})
	if n < 3 {
		t.Errorf("%d looks, want 3", n)
	}
}

// Links that lead to each other lead nowhere.
func TestLoop(t *testing.T) {
	dir := t.TempDir()
	do(t, os.Symlink("b", dir+"/a"), os.Symlink("a", dir+"/b"))
	paths := make(map[string]bool)
	trace(dir+"/a", paths)
	if len(paths) != 1 || !paths[dir] {
		t.Errorf("paths %v, want %s", paths, dir)
	}
}
