package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBackupAdmits: a backup brings back who may come in, and says so; or leaves that as it is.
func TestBackupAdmits(t *testing.T) {
	path, s := storeFile(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	data := filepath.Dir(path)
	backup := filepath.Join(t.TempDir(), "backup.db")
	do := func(args ...string) string {
		t.Helper()
		out, err := command(args...)
		if err != nil {
			t.Fatalf("%q: %q %v", args, out, err)
		}
		return out
	}
	holds := func(file string, want bool, words string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(data, file))
		if err != nil || strings.Contains(string(b), words) != want {
			t.Errorf("%s has %q, want %s there: %t; %v", file, b, words, want, err)
		}
	}
	do("device", "--data", data, "add", "dev-1")
	do("ban", "--data", data, "add", "client:noisy")
	do("store", "backup", path, backup)
	do("device", "--data", data, "remove", "dev-1")
	do("device", "--data", data, "add", "dev-2")

	do("store", "restore", "--store-only", backup, path)
	holds(devicesFile, false, "dev-1")
	holds(devicesFile, true, "dev-2")

	out := do("store", "restore", backup, path)
	for _, words := range []string{"1 devices restored", "1 bans restored", ".replaced-"} {
		if !strings.Contains(out, words) {
			t.Errorf("restore says %q, not %q", out, words)
		}
	}
	holds(devicesFile, true, "dev-1")
	holds(devicesFile, false, "dev-2")
	holds(bansFile, true, "noisy")
	if kept, err := filepath.Glob(filepath.Join(data, devicesFile+".replaced-*")); err != nil || len(kept) != 1 {
		t.Errorf("what was there: %q, %v", kept, err)
	}

	// A copy that cannot be read changes nothing, not even the store.
	before, err := filepath.Glob(path + ".replaced-*")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(backup+"."+bansFile, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := command("store", "restore", backup, path); err == nil {
		t.Errorf("restored from half a backup: %q", out)
	}
	if after, err := filepath.Glob(path + ".replaced-*"); err != nil || len(after) != len(before) {
		t.Errorf("the store was replaced: %q, %v", after, err)
	}

	// A backup takes nothing from another, and leaves nothing behind when it fails.
	second := filepath.Join(filepath.Dir(backup), "second.db")
	if err := os.WriteFile(second+"."+bansFile, []byte("another's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := command("store", "backup", path, second); err == nil || !strings.Contains(err.Error(), "give the backup another name") {
		t.Errorf("a backup over another: %q, %v", out, err)
	}
	if left, err := filepath.Glob(second + "*"); err != nil || len(left) != 1 {
		t.Errorf("it has left %q, %v", left, err)
	}
}
