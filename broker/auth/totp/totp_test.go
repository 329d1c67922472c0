package totp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gateway/broker/auth"
)

// RFC 6238, appendix B, for SHA-1, and RFC 4226, appendix D.
func TestVectors(t *testing.T) {
	secret := []byte("12345678901234567890")
	for at, want := range map[int64]string{
		59: "94287082", 1111111109: "07081804", 1111111111: "14050471", 1234567890: "89005924", 2000000000: "69279037", 20000000000: "65353130",
	} {
		if got := code(secret, step(time.Unix(at, 0)), 8); got != want {
			t.Errorf("at %d the code is %s, want %s", at, got, want)
		}
		if got := Code(secret, time.Unix(at, 0)); got != want[2:] {
			t.Errorf("at %d the short code is %s, want %s", at, got, want[2:])
		}
	}
	for n, want := range []string{"755224", "287082", "359152", "969429", "338314", "254676", "287922", "162583", "399871", "520489"} {
		if got := code(secret, int64(n), 6); got != want {
			t.Errorf("code %d is %s, want %s", n, got, want)
		}
	}
}

// passwords let in who has the right one, and know who is banned.
type passwords map[string]string

func (p passwords) Authenticate(_ context.Context, a auth.Attempt) (auth.Identity, error) {
	switch want, ok := p[a.Username]; {
	case !ok:
		return auth.Identity{}, auth.ErrUnknown
	case want == "banned":
		return auth.Identity{}, fmt.Errorf("out: %w", auth.ErrBanned)
	case want == "busy":
		return auth.Identity{}, fmt.Errorf("later: %w", auth.ErrUnavailable)
	case want != string(a.Password):
		return auth.Identity{}, fmt.Errorf("no: %w", auth.ErrBadCredentials)
	}
	return auth.Identity{User: strings.TrimSuffix(a.Username, "!"), By: "file"}, nil
}

const shared = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"

// A clock is what the time is in a test.
type clock struct{ time.Time }

// door returns a mechanism with some users, in the middle of a period long after its start.
func door(t *testing.T) (*Mechanism, *clock, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secrets")
	for _, name := range []string{"alice", "bob", "eve!", "mallory", "busy"} {
		if err := Set(path, name, shared); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	c := &clock{time.Unix(1_800_000_015, 0)}
	s.now, s.began = func() time.Time { return c.Time }, c.Add(-time.Hour)
	p := passwords{"alice": "pw", "bob": "pw", "none": "pw", "eve!": "pw", "mallory": "banned", "busy": "busy"}
	return &Mechanism{p, s}, c, path
}

func codeAt(t *testing.T, at time.Time) string {
	t.Helper()
	secret, err := ParseSecret(shared)
	if err != nil {
		t.Fatal(err)
	}
	return Code(secret, at)
}

// login goes through both rounds.
func login(t *testing.T, m *Mechanism, a auth.Attempt, first, second string) (auth.Identity, error) {
	t.Helper()
	x := m.Start(a)
	step, err := x.Next(t.Context(), []byte(first))
	if err != nil {
		return auth.Identity{}, err
	}
	if step.Done || string(step.Data) != "code" {
		t.Fatalf("the first factor is answered with %+v", step)
	}
	step, err = x.Next(t.Context(), []byte(second))
	if err == nil && !step.Done {
		t.Fatal("the second factor is not the last")
	}
	if _, again := x.Next(t.Context(), []byte(second)); again == nil {
		t.Error("the exchange goes on when it is over")
	}
	return step.Identity, err
}

func TestLogin(t *testing.T) {
	m, c, _ := door(t)
	now := codeAt(t, c.Time)
	for _, tt := range []struct {
		first, claimed, code string
		why                  string // part of the error; empty: let in
	}{
		{"\x00alice\x00pw", "", now, ""},
		{"bob\x00bob\x00pw", "bob", now, ""},
		{"\x00bob\x00pw", "", "000000", "wrong code"},
		{"\x00bob\x00pw", "", "", "wrong code"},
		{"\x00bob\x00pw", "", now + "0", "wrong code"},
		{"\x00bob\x00pW", "", now, "bad user name or password"},
		{"\x00nobody\x00pw", "", now, "unknown"},
		{"\x00none\x00pw", "", now, "no secret"},
		{"\x00eve!\x00pw", "", now, `found to be user "eve"`},
		{"\x00bob\x00pw", "alice", now, "names another user"},
		{"alice\x00bob\x00pw", "", now, "first message"},
		{"bob\x00pw", "", now, "first message"},
		{"\x00\x00pw", "", now, "first message"},
		{"", "", now, "first message"},
		{"\x00bob\x00pw\x00", "", now, "first message"},
	} {
		if name := m.Claim([]byte(tt.first)); (name == "") != (tt.why == "first message") || !strings.Contains(tt.first, "\x00"+name) && name != "" {
			t.Errorf("%q: it claims to be %q", tt.first, name)
		}
		id, err := login(t, m, auth.Attempt{Username: tt.claimed}, tt.first, tt.code)
		if tt.why == "" {
			if err != nil || id.By != "file" || !strings.Contains(tt.first, id.User) || id.User == "" {
				t.Errorf("%q: %+v, %v", tt.first, id, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), tt.why) {
			t.Errorf("%q as %q with %q: %v", tt.first, tt.claimed, tt.code, err)
		}
	}
	for name, want := range map[string]error{"mallory": auth.ErrBanned, "busy": auth.ErrUnavailable} {
		x := m.Start(auth.Attempt{})
		if _, err := x.Next(t.Context(), []byte("\x00"+name+"\x00pw")); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := x.Next(t.Context(), []byte(now)); err == nil {
			t.Errorf("%s comes in after all", name)
		}
	}
}

// A code counts once, one period early or late, and not if it may have been used before a restart.
func TestReplay(t *testing.T) {
	m, c, _ := door(t)
	try := func(user string, at time.Duration, why string) {
		t.Helper()
		_, err := login(t, m, auth.Attempt{}, "\x00"+user+"\x00pw", codeAt(t, c.Add(at)))
		if why == "" && err != nil || why != "" && (err == nil || !strings.Contains(err.Error(), why)) {
			t.Errorf("%s with the code of %v: %v, want %q", user, at, err, why)
		}
	}
	try("alice", -60*time.Second, "wrong code")
	try("alice", -30*time.Second, "")
	try("alice", -30*time.Second, "used before")
	try("alice", 0, "")
	try("alice", 0, "used before")
	try("alice", 30*time.Second, "")
	try("alice", 60*time.Second, "wrong code")
	try("bob", 0, "") // another user's

	// The gateway has just started, in the middle of a period.
	m, c, _ = door(t)
	m.Secrets.began = c.Time
	try("alice", -30*time.Second, "start")
	try("alice", 0, "start")
	c.Time = c.Add(30 * time.Second)
	try("alice", -30*time.Second, "start")
	try("alice", 0, "")

	// The clock goes back by a day, in which no code would count otherwise.
	c.Time = c.Add(-24 * time.Hour)
	c.Time = c.Add(time.Second)
	try("alice", 30*time.Second, "used before")
	c.Time = c.Add(60 * time.Second)
	try("alice", 0, "")
}

// Who has the password cannot try codes without end, and the user comes in a minute later.
func TestGuessing(t *testing.T) {
	m, c, _ := door(t)
	try := func(code string) error {
		_, err := login(t, m, auth.Attempt{}, "\x00alice\x00pw", code)
		return err
	}
	for range mostWrong {
		if err := try("x"); err == nil || !strings.Contains(err.Error(), "wrong code") {
			t.Fatal(err)
		}
	}
	if err := try(codeAt(t, c.Time)); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Error(err)
	}
	c.Time = c.Add(period)
	if err := try(codeAt(t, c.Time)); err == nil || !strings.Contains(err.Error(), "too many") {
		t.Error(err)
	}
	c.Time = c.Add(period)
	if err := try(codeAt(t, c.Time)); err != nil {
		t.Error(err)
	}
}

func TestFile(t *testing.T) {
	m, c, path := door(t)
	if err := Set(path, "alice", NewSecret()); err != nil {
		t.Fatal(err)
	}
	if found, err := Remove(path, "bob"); err != nil || !found {
		t.Fatal(found, err)
	}
	if gone, changed, err := m.Secrets.Look(); err != nil || !changed || !slices.Equal(gone, []string{"alice", "bob"}) {
		t.Error(gone, changed, err)
	}
	for _, name := range []string{"alice", "bob"} {
		if _, err := login(t, m, auth.Attempt{}, "\x00"+name+"\x00pw", codeAt(t, c.Time)); err == nil {
			t.Errorf("%s comes in with the old secret", name)
		}
	}
	for _, bad := range []string{"", "x", "JBSWY3DPEHPK3PXP", "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PX1", strings.Repeat("A", 200)} {
		if err := Set(path, "carol", bad); err == nil {
			t.Errorf("the secret %q is taken", bad)
		}
	}
	if err := Set(path, "carol", "jbsw y3dp ehpk 3pxp jbsw y3dp ehpk 3pxp"); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("x:y"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Secrets.Look(); err == nil || !strings.Contains(err.Error(), path+": line 1: ") {
		t.Error(err)
	}
}

// The exchange of a client that has a password and a telephone.
func Example() {
	secret, _ := ParseSecret(shared)
	folder, _ := os.MkdirTemp("", "totp")
	defer os.RemoveAll(folder)
	file := filepath.Join(folder, "secrets")
	_ = Set(file, "alice", shared)
	secrets, _ := Open(file)
	secrets.began = time.Now().Add(-time.Hour) // no code of before counts, and one is to be had at once

	m := &Mechanism{Password: passwords{"alice": "pw"}, Secrets: secrets}
	x := m.Start(auth.Attempt{ClientID: "laptop"})
	step, err := x.Next(context.Background(), []byte("\x00alice\x00pw"))
	fmt.Printf("%s %v\n", step.Data, err)
	step, err = x.Next(context.Background(), []byte(Code(secret, time.Now())))
	fmt.Println(step.Done, step.Identity.User, err)
	// Output:
	// code <nil>
	// true alice <nil>
}

func FuzzFirst(f *testing.F) {
	f.Add("\x00alice\x00pw")
	f.Fuzz(func(t *testing.T, first string) {
		m := &Mechanism{passwords{"alice": "pw"}, nil}
		x := m.Start(auth.Attempt{}).(*exchange)
		if _, err := x.Next(t.Context(), []byte(first)); err != nil {
			t.Fatal(err)
		}
		if x.err == nil && !strings.HasSuffix(first, "\x00alice\x00pw") {
			t.Fatalf("%q passes", first)
		}
	})
}
