package passwd_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"gateway/broker/auth"
	"gateway/broker/auth/passwd"
)

func open(t *testing.T, path string) *passwd.Users {
	t.Helper()
	u, err := passwd.Open(path, passwd.NewPool(2, 10))
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func login(t *testing.T, u *passwd.Users, name, password string) (auth.Identity, error) {
	return u.Authenticate(t.Context(), auth.Attempt{Username: name, Password: []byte(password)})
}

// kinds are the ways to hash, with costs that suit a test.
var kinds = []struct {
	kind       passwd.Kind
	iterations int
}{{passwd.SHA512, 0}, {passwd.PBKDF2, 101}, {passwd.Argon2id, 0}}

func TestLogin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwd")
	for _, k := range kinds {
		if err := passwd.Set(path, "user-"+string(k.kind), []byte("right: "+string(k.kind)), k.kind, k.iterations); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v", st.Mode(), err)
	}
	u := open(t, path)
	for _, k := range kinds {
		name := "user-" + string(k.kind)
		if id, err := login(t, u, name, "right: "+string(k.kind)); err != nil || id.User != name || id.By != "file" {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
		for _, wrong := range []string{"", "wrong", "right: " + string(k.kind) + "x"} {
			if _, err := login(t, u, name, wrong); !errors.Is(err, auth.ErrBadCredentials) {
				t.Errorf("%s with %q: %v", name, wrong, err)
			}
		}
		if _, err := u.Authenticate(t.Context(), auth.Attempt{Username: name}); !errors.Is(err, auth.ErrBadCredentials) {
			t.Errorf("%s without password: %v", name, err)
		}
	}
	for _, name := range []string{"", "nobody"} {
		if _, err := login(t, u, name, "right: sha512"); !errors.Is(err, auth.ErrUnknown) {
			t.Errorf("user %q: %v", name, err)
		}
	}
}

// Lines that mosquitto_passwd 2.0.11 and Mosquitto 2.1 wrote.
func TestMosquittoLines(t *testing.T) {
	const text = "# a comment\n\n" +
		"anna:$7$101$mzwhqreByL4/Rkm4$lNg2+DDL90NmOMfV8V4eUUU3idqkFNnao+3ojtONsKoZRbIvkTFvawRjbvyS/8aZMaUlWRH8PDPAhvMgQQp5WA==\n" +
		"ben:$6$aLzu8wiKEVXIKySA$dFTDpIz6zkD4lD9DEfPdOKk1S9nUBNN0tdd3P9YsA53Z6FumAuCMfWSSSqhFg2vmSR2f0zPvYITZ+zpAI8zodw==\n"
	path := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	u := open(t, path)
	for name, password := range map[string]string{"anna": "secret", "ben": "geheim"} {
		if _, err := login(t, u, name, password); err != nil {
			t.Error(err)
		}
		if _, err := login(t, u, name, password+"x"); !errors.Is(err, auth.ErrBadCredentials) {
			t.Errorf("%s with a wrong password: %v", name, err)
		}
	}
}

// What mosquitto_passwd writes is read; what is written here, it takes as well.
func TestMosquittoPasswd(t *testing.T) {
	tool, err := exec.LookPath("mosquitto_passwd")
	if err != nil {
		t.Skip("no mosquitto_passwd: ", err)
	}
	path := filepath.Join(t.TempDir(), "passwd")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	run("-c", "-b", path, "anna", "pass wörd")
	run("-b", "-H", "sha512", path, "ben", "$6$a:b")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := passwd.Check(path); err == nil || !strings.Contains(err.Error(), "chmod 640") {
		t.Errorf("a file that everyone can read: %v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := passwd.Set(path, "carl", []byte("own"), passwd.PBKDF2, 0); err != nil {
		t.Fatal(err)
	}
	run("-b", path, "dora", "last")
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	u := open(t, path)
	for name, password := range map[string]string{"anna": "pass wörd", "ben": "$6$a:b", "carl": "own", "dora": "last"} {
		if _, err := login(t, u, name, password); err != nil {
			t.Error(err)
		}
	}
	if err := passwd.Remove(path, "anna"); err != nil {
		t.Fatal(err)
	}
	if err := passwd.Remove(path, "anna"); err == nil {
		t.Error("a user was removed twice")
	}
	if gone, changed, err := u.Look(); !slices.Equal(gone, []string{"anna"}) || !changed || err != nil {
		t.Errorf("%v, %t, %v", gone, changed, err)
	}
	if _, err := login(t, u, "anna", "pass wörd"); !errors.Is(err, auth.ErrUnknown) {
		t.Errorf("a removed user: %v", err)
	}
}

func TestUpdate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(path, []byte("# plain\nanna:a:b\nben:two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := passwd.Open(path, passwd.NewPool(1, 1)); err == nil || !strings.Contains(err.Error(), "line 2") || !strings.Contains(err.Error(), "gateway passwd -U") {
		t.Errorf("plain passwords: %v", err)
	}
	for i, want := range []int{2, 0} {
		if n, err := passwd.Update(path, passwd.PBKDF2, 1); n != want || err != nil {
			t.Errorf("round %d: %d, %v", i, n, err)
		}
		if _, err := login(t, open(t, path), "anna", "a:b"); err != nil {
			t.Error(err)
		}
	}
}

func TestBadLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwd")
	key := strings.Repeat("A", 86) + "=="
	for _, words := range []string{
		"", "plain", "$5$AAAA$" + key, "$6$AAAA", "$6$AAAA$AAAA", "$6$$" + key, "$6$!!!!$" + key,
		"$7$0$AAAA$" + key, "$7$x$AAAA$" + key, "$7$10000001$AAAA$" + key, "$7$101$AAAA$" + strings.Repeat("A", 400),
		"$argon2id$v=16$m=1024,t=1,p=1$AAAA$" + key, "$argon2id$v=19$m=9999999,t=1,p=1$AAAA$" + key,
		"$argon2id$v=19$m=1024,t=0,p=1$AAAA$" + key, "$argon2id$v=19$m=1024,p=1$AAAA$" + key, "$argon2id$v=19$m=1024,t=1,p=99$AAAA$" + key,
	} {
		if err := os.WriteFile(path, []byte("anna:"+words+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := passwd.Check(path); err == nil || !strings.Contains(err.Error(), "line 1: ") {
			t.Errorf("%q: %v", words, err)
		}
	}
	if err := os.WriteFile(path, []byte("anna:$6$AAAA$"+key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := passwd.Check(path); err != nil {
		t.Errorf("the line that the others were made from: %v", err)
	}
	for _, k := range []passwd.Kind{"", "md5", passwd.PBKDF2} {
		if err := passwd.Set(path, "x", []byte("x"), k, -1); err == nil {
			t.Errorf("a password was hashed with %q and -1 iterations", k)
		}
	}
	if err := passwd.Set(path, "x", nil, passwd.SHA512, 0); err == nil {
		t.Error("an empty password was taken")
	}
}

// A file with another password, or without a user, tells who has to come again.
func TestLookTellsWhoIsGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwd")
	set := func(name, password string) {
		t.Helper()
		if err := passwd.Set(path, name, []byte(password), passwd.SHA512, 0); err != nil {
			t.Fatal(err)
		}
	}
	set("anna", "1")
	set("ben", "1")
	u := open(t, path)
	set("anna", "2")
	set("carl", "1")
	if gone, changed, err := u.Look(); !slices.Equal(gone, []string{"anna"}) || !changed || err != nil {
		t.Errorf("%v, %t, %v", gone, changed, err)
	}
	if err := os.WriteFile(path, []byte("anna:oops\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if gone, changed, err := u.Look(); gone != nil || changed || err == nil {
		t.Errorf("a broken file: %v, %t, %v", gone, changed, err)
	}
	if _, err := login(t, u, "anna", "2"); err != nil {
		t.Errorf("the file of before counts: %v", err)
	}
}

// A login storm waits in a bounded queue, and what does not fit is told so at once.
func TestStorm(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwd")
	if err := passwd.Set(path, "anna", []byte("x"), passwd.PBKDF2, 20_000); err != nil {
		t.Fatal(err)
	}
	u, err := passwd.Open(path, passwd.NewPool(1, 3))
	if err != nil {
		t.Fatal(err)
	}
	const clients = 50
	results := make(chan error, clients)
	start := make(chan struct{})
	for range clients {
		go func() {
			<-start
			_, err := u.Authenticate(context.Background(), auth.Attempt{Username: "anna", Password: []byte("x")})
			results <- err
		}()
	}
	close(start)
	in, full := 0, 0
	for range clients {
		switch err := <-results; {
		case err == nil:
			in++
		case errors.Is(err, auth.ErrUnavailable):
			full++
		default:
			t.Error(err)
		}
	}
	if in < 4 || full == 0 || in+full != clients {
		t.Errorf("%d came in, %d were sent away", in, full)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	pool := passwd.NewPool(0, 1) // nobody's turn comes
	if u, err = passwd.Open(path, pool); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Authenticate(ctx, auth.Attempt{Username: "anna"}); !errors.Is(err, context.Canceled) {
		t.Errorf("a gateway that stops: %v", err)
	}
}

// A user that there is not is answered only after its turn to hash, as one that there is.
func TestUnknownUserTakesItsTurn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwd")
	if err := passwd.Set(path, "anna", []byte("x"), passwd.SHA512, 0); err != nil {
		t.Fatal(err)
	}
	u, err := passwd.Open(path, passwd.NewPool(0, 1)) // nobody's turn comes
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, name := range []string{"anna", "nobody"} {
		if _, err := u.Authenticate(ctx, auth.Attempt{Username: name}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzFile(f *testing.F) {
	f.Add("anna:$7$101$mzwhqreByL4/Rkm4$lNg2+DDL90NmOMfV8V4eUUU3idqkFNnao+3ojtONsKoZRbIvkTFvawRjbvyS/8aZMaUlWRH8PDPAhvMgQQp5WA==\n")
	f.Add("ben:$argon2id$v=19$m=1024,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(dir, "passwd")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if passwd.Check(path) != nil {
			return
		}
		// What is in order stays so when a user comes and goes.
		if err := passwd.Set(path, "fuzz", []byte("x"), passwd.SHA512, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := login(t, open(t, path), "fuzz", "x"); err != nil {
			t.Fatal(err)
		}
		if err := passwd.Remove(path, "fuzz"); err != nil {
			t.Fatal(err)
		}
	})
}

// What a hash needed much memory for is free again when the next one begins, so that a thousand logins need
// no more than one.
func TestMemoryIsLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwords")
	if err := passwd.Set(path, "anna", []byte("pencil"), passwd.Argon2id, 0); err != nil {
		t.Fatal(err)
	}
	u, err := passwd.Open(path, passwd.NewPool(1, 1))
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if _, err := u.Authenticate(t.Context(), auth.Attempt{Username: "anna", Password: []byte("pencil")}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if taken := after.TotalAlloc - before.TotalAlloc; taken < 40<<20 {
		t.Errorf("the hash has taken %d bytes: that is not what argon2id needs", taken)
	}
	if left := int64(after.HeapAlloc) - int64(before.HeapAlloc); left > 10<<20 {
		t.Errorf("%d bytes are still taken", left)
	}
}
