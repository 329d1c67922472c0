package roster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// number is what stands behind a name in these tests: any text but "bad".
func number(words string) (string, error) {
	if words == "bad" || words == "" {
		return "", errors.New("bad words")
	}
	return words, nil
}

func open(path string) *Roster[string] {
	return New(path, number, func(a, b string) bool { return a == b })
}

// Commands that edit a file at the same time lose nothing of each other's.
func TestEditors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	const editors, each = 8, 20
	var all sync.WaitGroup
	for e := range editors {
		all.Go(func() {
			for n := range each {
				if err := open(path).Set(fmt.Sprintf("user-%d-%d", e, n), "x"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	r := open(path)
	if _, changed, err := r.Look(); err != nil || !changed || len(r.All()) != editors*each {
		t.Errorf("%d users, %v, %v", len(r.All()), changed, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// A link goes on pointing to the file that is edited, whose lines without meaning stay where they are.
func TestLink(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(t.TempDir(), "link")
	if err := os.WriteFile(file, []byte("# first\n\na:1\n  # last"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	r := open(link)
	for name, words := range map[string]string{"a": "2", "b": "3"} {
		if err := r.Set(name, words); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "# first\n\na:2\n  # last\nb:3\n" {
		t.Errorf("%q, %v", text, err)
	}
	if info, err := os.Lstat(link); err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link is now %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the file has the mode %v, %v", info.Mode(), err)
	}
}

func TestLook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	r := open(path)
	look := func(change bool, want ...string) {
		t.Helper()
		gone, changed, err := r.Look()
		if err != nil || changed != change || !slices.Equal(gone, want) {
			t.Errorf("gone are %q, changed is %t, %v; want %q, %t", gone, changed, err, want, change)
		}
	}
	broken := func(text, why string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.Look(); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %q", text, err, why)
		}
		look(false)
	}
	if _, _, err := r.Look(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for _, name := range []string{"a", "b", "c"} {
		if err := r.Set(name, "1"); err != nil {
			t.Fatal(err)
		}
	}
	look(true)
	look(false)
	if err := r.Set("b", "2"); err != nil {
		t.Fatal(err)
	}
	if found, err := r.Remove("c"); err != nil || !found {
		t.Fatal(found, err)
	}
	look(true, "b", "c")
	broken("a:1\nb:bad\n", path+": line 2: bad words")
	broken("a:1\n\na:1\n", `line 3: user "a" stands here a second time`)
	broken("a/b:1\n", "line 1: user name")
	if err := r.Set("d", "1"); err == nil {
		t.Error("a file that cannot be read was written")
	}
	if got := r.All()["b"]; got != "2" {
		t.Errorf("b is %q after broken files", got)
	}
	if err := os.WriteFile(path, []byte("c:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o644, 0o602} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.Look(); err == nil || !strings.Contains(err.Error(), "everyone") || !strings.Contains(err.Error(), "chmod 640") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	look(true, "a", "b") // a permission that is mended is a change
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Look(); err == nil {
		t.Error("a file that has gone is no error")
	}
	for _, name := range []string{"", "$a", "a:b", " a", "a ", "a\n", strings.Repeat("a", maxName+1)} {
		if err := r.Set(name, "1"); err == nil {
			t.Errorf("the name %q is taken", name)
		}
	}
}
