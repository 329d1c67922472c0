package scram

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gateway/broker/auth"
	"gateway/broker/auth/roster"
)

func TestBadFiles(t *testing.T) {
	good := line(t, SHA256, "good", "pw")
	keys := strings.TrimPrefix(good, "good:")
	for _, bad := range []string{
		"name", "name:", ":" + keys, "a b c", "name:" + keys + " " + keys, "name:" + keys + " expires=tomorrow", "name:" + keys + " more",
		"na+me:" + keys, "na/me:" + keys, "$me:" + keys, " name:" + keys,
		"good:" + keys, // twice
		"name:" + strings.Replace(keys, "SCRAM-SHA-256", "SCRAM-SHA-224", 1),
		"name:" + strings.Replace(keys, "$4096:", "$4095:", 1),
		"name:" + strings.Replace(keys, "$4096:", "$99999999:", 1),
		"name:" + strings.Replace(keys, "SCRAM-SHA-256", "SCRAM-SHA-512", 1), // keys too short
		"name:" + keys[:len(keys)-4],
		"name:SCRAM-SHA-256$4096:c2FsdA==" + keys[strings.LastIndex(keys, "$"):], // salt too short
	} {
		_, err := roster.Parse(good+"\n"+bad, parseUser)
		if err == nil || !strings.Contains(err.Error(), "line 2: ") {
			t.Errorf("%.40q: %v", bad, err)
		}
		if err != nil && strings.Contains(err.Error(), keys[len(keys)-20:]) {
			t.Errorf("%.40q: the error shows the keys: %v", bad, err)
		}
	}
}

// What commands do to a file leaves the rest of it alone, and is seen by Look.
func TestEditing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "users")
	keys := func(password string) []Keys {
		var all []Keys
		for _, h := range []Hash{SHA256, SHA512} {
			k, err := NewKeys(h, password, MinIterations)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, k)
		}
		return all
	}
	set := func(name, password string, until time.Time) {
		t.Helper()
		if err := Set(path, name, until, keys(password)...); err != nil {
			t.Fatal(err)
		}
	}
	set("a", "1", time.Time{})
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("a new file has the mode %v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("# mine\n\n"+strings.TrimSpace(string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	users, err := Open(path, secret)
	if err != nil {
		t.Fatal(err)
	}
	look := func(want ...string) {
		t.Helper()
		if gone, _, err := users.Look(); err != nil || !slices.Equal(gone, want) {
			t.Errorf("gone are %q, %v; want %q", gone, err, want)
		}
	}
	can := func(name, password string, want bool) {
		t.Helper()
		for _, h := range []Hash{SHA256, SHA512} {
			if _, err := login(t, &Mechanism{Hash: h, Users: users}, name, password, auth.Attempt{}); (err == nil) != want {
				t.Errorf("%s: %s with %s: %v", h, name, password, err)
			}
		}
	}
	look()
	can("a", "1", true)
	set("b", "2", time.Now().Add(time.Hour))
	look()
	can("b", "2", true)
	set("a", "3", time.Time{})
	look("a")
	can("a", "1", false)
	can("a", "3", true)
	if found, err := Remove(path, "b"); err != nil || !found {
		t.Fatal(found, err)
	}
	look("b")
	can("b", "2", false)
	if found, err := Remove(path, "b"); err != nil || found {
		t.Fatal(found, err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !strings.HasPrefix(string(after), "# mine\n\na:SCRAM-SHA-256$") || strings.Count(string(after), "\n") != 3 {
		t.Errorf("the file is now %q, %v", after, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the file has the mode %v, %v", info.Mode(), err)
	}

	// A file that is wrong, or open to all, changes nothing.
	if err := os.WriteFile(path, []byte("rubbish"), 0o640); err != nil {
		t.Fatal(err)
	}
	if _, _, err := users.Look(); err == nil || !strings.Contains(err.Error(), path+": line 1: ") {
		t.Errorf("rubbish: %v", err)
	}
	if err := Set(path, "c", time.Time{}, keys("1")...); err == nil {
		t.Error("a file that cannot be read was written")
	}
	look() // it is told once
	can("a", "3", true)
	if err := os.WriteFile(path, after, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := users.Look(); err == nil || !strings.Contains(err.Error(), "chmod 640") {
		t.Errorf("a file that all can read: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	look()
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// A user that is changed while it logs in has to begin again.
func TestChangedMeanwhile(t *testing.T) {
	users, path := fileWith(t, line(t, SHA256, "user", "pw"))
	c, err := NewClient(SHA256, "user", "pw")
	if err != nil {
		t.Fatal(err)
	}
	x := (&Mechanism{Hash: SHA256, Users: users}).Start(auth.Attempt{})
	first, err := c.Next(nil)
	if err != nil {
		t.Fatal(err)
	}
	step, err := x.Next(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	final, err := c.Next(step.Data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Remove(path, "user"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := users.Look(); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Next(t.Context(), final); err == nil {
		t.Error("a user that was removed meanwhile is let in")
	}
}

// Whatever can be read is written as it was.
func FuzzFile(f *testing.F) {
	k, err := NewKeys(SHA1, "pw", MinIterations)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("user:" + k.String() + " expires=2027-01-31T12:00:00Z disabled\n# x\n")
	f.Fuzz(func(t *testing.T, text string) {
		users, err := roster.Parse(text, parseUser)
		if err != nil {
			return
		}
		for name, u := range users {
			if roster.CheckName(name) != nil {
				t.Errorf("the name %q", name)
			}
			for _, k := range u.keys {
				again, err := ParseKeys(k.String())
				if err != nil || again.String() != k.String() {
					t.Errorf("%v is read as %v, %v", k, again, err)
				}
			}
		}
	})
}
