package watch

import (
	"os"
	"path/filepath"
	"testing"
)

// Every way in which a file can change, or become readable, is another state.
func TestState(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "users"), filepath.Join(dir, "other")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]string{State(path): "no file"}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"made", func() error { write(path, "a"); return nil }},
		{"longer", func() error { write(path, "ab"); return nil }},
		{"a permission", func() error { return os.Chmod(path, 0o640) }},
		{"an owner", func() error { return os.Chown(path, os.Getuid(), os.Getgid()) }},
		{"another in its place", func() error { write(other, "ab"); return os.Rename(other, path) }},
		{"a link", func() error {
			write(other, "ab")
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Symlink(other, path)
		}},
		{"what the link names", func() error { write(other, "abc"); return nil }},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		now := State(path)
		if before, ok := seen[now]; ok {
			t.Errorf("%s: the same as %s: %s", step.name, before, now)
		}
		seen[now] = step.name
		if again := State(path); again != now {
			t.Errorf("%s: %s, then %s", step.name, now, again)
		}
	}
}
