package scram

import (
	"bytes"
	"crypto/sha512"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	xdg "github.com/xdg-go/scram"

	"gateway/broker/auth"
)

var secret = bytes.Repeat([]byte{7}, 32)

// fileWith returns a file of users with these lines, open.
func fileWith(t *testing.T, lines ...string) (*Users, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	u, err := Open(path, secret)
	if err != nil {
		t.Fatal(err)
	}
	return u, path
}

// line returns the line of a user.
func line(t *testing.T, h Hash, name, password string, more ...string) string {
	t.Helper()
	k, err := NewKeys(h, password, MinIterations)
	if err != nil {
		t.Fatal(err)
	}
	return name + ":" + strings.Join(append([]string{k.String()}, more...), " ")
}

// vectors are the exchanges that the standards print; that for SHA-512 is of Python's hashlib.
var vectors = []struct {
	source    string
	hash      Hash
	salt      string
	client    string // nonce
	server    string // nonce
	proof     string
	signature string
}{
	{"RFC 5802, 5", SHA1, "QSXCR+Q6sek8bf92", "fyko+d2lbbFgONRv9qkxdawL", "3rfcNHYJY1ZVvWVs7j", "v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=", "rmF9pqV8S7suAoZWja4dJRkFsKQ="},
	{"RFC 7677, 3", SHA256, "W22ZaJ0SNY7soEsUEjb6gQ==", "rOprNGfwEbeRWgbNEkqO", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="},
	{"Python's hashlib and hmac", SHA512, "MDEyMzQ1Njc4OWFiY2RlZg==", "rOprNGfwEbeRWgbNEkqO", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", "VGyrj2eHvI+WpGHthq72MbY4w3VveKSlNp58BUW5Dyg3+qi63gSDCxWPN7Z99mA7dIjpfu/PP5VuKSH2FXh6VQ==", "GSDOo4R7sl2iYhZeNid7pJugJIIK00Ey/hvF3VxtopZ4YMP/PZG5qXR5ZxZEAn+nVajcQGgE4oynsoEIYaHsLg=="},
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		salt, err := encoding.DecodeString(v.salt)
		if err != nil {
			t.Fatal(err)
		}
		salted, err := v.hash.salted("pencil", salt, 4096)
		if err != nil {
			t.Fatal(err)
		}
		keys := Keys{v.hash, 4096, salt, v.hash.sum(v.hash.mac(salted, "Client Key")), v.hash.mac(salted, "Server Key")}
		users, _ := fileWith(t, "user:"+keys.String())
		x := (&Mechanism{Hash: v.hash, Users: users}).Start(auth.Attempt{}).(*exchange)
		x.random = func() string { return v.server }
		c := &Client{hash: v.hash, password: "pencil", nonce: v.client, bare: "n=user,r=" + v.client}

		want := []string{
			"n,,n=user,r=" + v.client,
			"r=" + v.client + v.server + ",s=" + v.salt + ",i=4096",
			"c=biws,r=" + v.client + v.server + ",p=" + v.proof,
			"v=" + v.signature,
		}
		var got []string
		var message []byte
		for !c.Verified() {
			answer, err := c.Next(message)
			if err != nil {
				t.Fatalf("%s: client: %v", v.source, err)
			}
			if c.Verified() {
				break
			}
			step, err := x.Next(t.Context(), answer)
			if err != nil {
				t.Fatalf("%s: server: %v", v.source, err)
			}
			got = append(got, string(answer), string(step.Data))
			message = step.Data
			if step.Done && step.Identity.User != "user" {
				t.Errorf("%s: the user is %q", v.source, step.Identity.User)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", v.source, got, want)
		}
	}
}

// An independent implementation logs in here, and this one there.
func TestOtherImplementation(t *testing.T) {
	others := map[Hash]xdg.HashGeneratorFcn{SHA1: xdg.SHA1, SHA256: xdg.SHA256, SHA512: sha512.New}
	for _, h := range Hashes {
		for name, password := range map[string]string{"air-1": "pencil", "a=b,c": "x,y=z", "Gewächs": "schlüssel"} {
			t.Run(h.String()+"/"+name, func(t *testing.T) {
				users, _ := fileWith(t, line(t, h, name, password))
				client, err := others[h].NewClient(name, password, "")
				if err != nil {
					t.Fatal(err)
				}
				theirs := client.NewConversation()
				x := (&Mechanism{Hash: h, Users: users}).Start(auth.Attempt{})
				var step auth.Step
				for message := ""; !step.Done; message = string(step.Data) {
					answer, err := theirs.Step(message)
					if err != nil {
						t.Fatal(err)
					}
					if step, err = x.Next(t.Context(), []byte(answer)); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := theirs.Step(string(step.Data)); err != nil || !theirs.Valid() {
					t.Errorf("their client does not take our last message: %v", err)
				}

				keys, err := client.GetStoredCredentialsWithError(xdg.KeyFactors{Salt: "saltsaltsalt", Iters: 5000})
				if err != nil {
					t.Fatal(err)
				}
				server, err := others[h].NewServer(func(string) (xdg.StoredCredentials, error) { return keys, nil })
				if err != nil {
					t.Fatal(err)
				}
				conversation := server.NewConversation()
				c, err := NewClient(h, name, password)
				if err != nil {
					t.Fatal(err)
				}
				for message := ""; !c.Verified(); {
					answer, err := c.Next([]byte(message))
					if err != nil {
						t.Fatal(err)
					}
					if !c.Verified() {
						if message, err = conversation.Step(string(answer)); err != nil {
							t.Fatal(err)
						}
					}
				}
				if !conversation.Valid() {
					t.Error("their server does not take our client")
				}
			})
		}
	}
}

// login runs an exchange with our own client and returns how it ends.
func login(t *testing.T, m *Mechanism, name, password string, a auth.Attempt) (auth.Step, error) {
	t.Helper()
	c, err := NewClient(m.Hash, name, password)
	if err != nil {
		t.Fatal(err)
	}
	x := m.Start(a)
	var message []byte
	for {
		answer, err := c.Next(message)
		if err != nil {
			t.Fatal(err)
		}
		step, err := x.Next(t.Context(), answer)
		if err != nil || step.Done {
			return step, err
		}
		message = step.Data
	}
}

func TestLogin(t *testing.T) {
	soon := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	users, _ := fileWith(t,
		"# devices",
		line(t, SHA256, "right", "pw"),
		"",
		line(t, SHA256, "until", "pw", "expires="+soon.Format(time.RFC3339)),
		line(t, SHA256, "past", "pw", "expires=2020-01-01T00:00:00Z"),
		line(t, SHA256, "off", "pw", "disabled"),
		line(t, SHA512, "other", "pw"))
	m := &Mechanism{Hash: SHA256, Users: users}
	for _, tt := range []struct {
		name, password, claimed string
		why                     string // part of the error; empty: let in
	}{
		{"right", "pw", "", ""},
		{"right", "pw", "right", ""},
		{"until", "pw", "", ""},
		{"right", "pW", "", "wrong password"},
		{"right", "pw", "until", "names another"},
		{"nobody", "pw", "", "no user"},
		{"other", "pw", "", "no user"},
		{"past", "pw", "", "expired"},
		{"past", "pW", "", "wrong password"},
		{"off", "pw", "", "disabled"},
	} {
		step, err := login(t, m, tt.name, tt.password, auth.Attempt{Username: tt.claimed})
		if tt.why != "" {
			if err == nil || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("%+v: %v", tt, err)
			}
			continue
		}
		if err != nil || step.Identity.User != tt.name || step.Identity.By != By || (tt.name == "until") != step.Identity.Expires.Equal(soon) {
			t.Errorf("%+v: %+v, %v", tt, step.Identity, err)
		}
	}
}

// What a server tells before it has seen a proof is the same for who exists and who does not: it
// stays what it is, and looks alike.
func TestUnknownLooksKnown(t *testing.T) {
	users, path := fileWith(t, line(t, SHA256, "known", "pw"))
	first := func(u *Users, name string) serverFirst {
		t.Helper()
		step, err := (&Mechanism{Hash: SHA256, Users: u}).Start(auth.Attempt{}).Next(t.Context(), []byte("n,,n="+name+",r=nonce"))
		if err != nil {
			t.Fatal(err)
		}
		m, err := parseServerFirst(step.Data)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	known, stranger := first(users, "known"), first(users, "stranger")
	if stranger.iterations != known.iterations || len(stranger.salt) != len(known.salt) || len(stranger.nonce) != len(known.nonce) {
		t.Errorf("known %v, unknown %v", known, stranger)
	}
	if other := first(users, "strange"); bytes.Equal(other.salt, stranger.salt) {
		t.Error("two names have the same salt")
	}
	// After a restart, with more users, and with other iterations among them in half of all cases.
	if err := os.WriteFile(path, []byte(line(t, SHA256, "more", "pw")+"\n"+line(t, SHA256, "known", "pw")), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := Open(path, secret)
	if err != nil {
		t.Fatal(err)
	}
	if now := first(again, "stranger"); !bytes.Equal(now.salt, stranger.salt) || now.iterations != stranger.iterations {
		t.Errorf("it was %v, and is %v", stranger, now)
	}
	k, err := NewKeys(SHA256, "pw", 2*MinIterations)
	if err != nil {
		t.Fatal(err)
	}
	if err := Set(path, "slow", time.Time{}, k); err != nil {
		t.Fatal(err)
	}
	if _, _, err := again.Look(); err != nil {
		t.Fatal(err)
	}
	counts := make(map[int]int)
	for i := range 100 {
		name := "n" + string(rune('0'+i/10)) + string(rune('0'+i%10))
		m := first(again, name)
		counts[m.iterations]++
		if m2 := first(again, name); m2.iterations != m.iterations {
			t.Errorf("%s: %d iterations, then %d", name, m.iterations, m2.iterations)
		}
	}
	if counts[MinIterations] < 20 || counts[2*MinIterations] < 20 {
		t.Errorf("iterations of strangers: %v, want both as often as not", counts)
	}
}

// Messages that are wrong end the exchange, and it cannot be gone on with.
func TestBadMessages(t *testing.T) {
	users, _ := fileWith(t, line(t, SHA256, "user", "pencil"))
	m := &Mechanism{Hash: SHA256, Users: users}
	for _, first := range []string{
		"", "n", "n,,", "n,,n=user", "n,,r=abc", "n,,n=,r=", "n,,n=user,r=", "n,,n=user,r=a b", "n,,n=user,r=\u00e4",
		"n,,m=x,n=user,r=abc",        // an extension that must be understood
		"p=tls-unique,,n=user,r=abc", // channel binding
		"x,,n=user,r=abc",            // neither n, y nor p
		"n,a=admin,n=user,r=abc",     // for somebody else
		"n,user,n=user,r=abc",        // no a=
		"n,,n=us=er,r=abc",           // bare =
		"n,,n=us=2cer,r=abc",         // only capitals
		"n,,n=us\x00er,r=abc",        // NUL
		"n,,n=us\xffer,r=abc",        // no UTF-8
		"n,,n=user,r=abc,x",          // no attribute
		"n,,n=user,r=abc,1=x",        // no letter
		"n,,r=abc,n=user",            // order
		"n,,n=user,r=" + long(maxNonce+1),
		"n,,n=" + long(maxName+1) + ",r=abc",
		"n,,n=user,r=abc,x=" + long(maxMessage),
	} {
		if name := m.Claim([]byte(first)); name != "" {
			t.Errorf("%.60q: it claims to be %q", first, name)
		}
		x := m.Start(auth.Attempt{})
		if step, err := x.Next(t.Context(), []byte(first)); err == nil {
			t.Errorf("%.60q: %q", first, step.Data)
		}
		if step, err := x.Next(t.Context(), []byte("n,,n=user,r=abc")); err == nil {
			t.Errorf("%.60q: and then %q", first, step.Data)
		}
	}
	for _, tt := range []struct{ header, final string }{
		{"n,,", "c=biws,r=NONCE"},
		{"n,,", "c=biws,r=NONCE,p="},
		{"n,,", "c=biws,r=NONCE,p=AAAA"},
		{"n,,", "c=biws,r=NONCE,p=PROOF,x=y"},
		{"n,,", "c=eSws,r=NONCE,p=PROOF"},            // y,, after n,,
		{"n,,", "c=biws,r=abc,p=PROOF"},              // the client's half of the nonce
		{"n,,", "c=biws,r=NONCEx,p=PROOF"},           // another nonce
		{"n,,", "r=NONCE,c=biws,p=PROOF"},            // order
		{"n,,", "c=biws,r=NONCE,m=x,p=PROOF,p=AAAA"}, // two proofs
		{"n,,", "c=biw,r=NONCE,p=PROOF"},             // no base64
		{"n,,", "c=bi\nws,r=NONCE,p=PROOF"},          // base64 with a new line
		{"n,,", "c=biws,r=NONCE,x,p=PROOF"},
		{"y,,", "c=biws,r=NONCE,p=PROOF"}, // n,, after y,,
		{"n,a=user,", "c=biws,r=NONCE,p=PROOF"},
	} {
		_, err := answer(t, m, tt.header, tt.final)
		if err == nil {
			t.Errorf("%s ... %s: let in", tt.header, tt.final)
		}
	}
	for _, tt := range []struct{ header, final string }{
		{"n,,", "c=biws,r=NONCE,p=PROOF"},
		{"y,,", "c=eSws,r=NONCE,p=PROOF"},
		{"n,a=user,", "c=bixhPXVzZXIs,r=NONCE,p=PROOF"},
		{"n,,", "c=biws,r=NONCE,x=y,p=PROOF"},
	} {
		if step, err := answer(t, m, tt.header, tt.final); err != nil || !step.Done {
			t.Errorf("%s ... %s: %v", tt.header, tt.final, err)
		}
	}
}

// answer begins an exchange of "user" with a header and answers with a last message in which NONCE
// and PROOF stand for the right ones.
func answer(t *testing.T, m *Mechanism, header, final string) (auth.Step, error) {
	t.Helper()
	const bare = "n=user,r=abc"
	x := m.Start(auth.Attempt{})
	step, err := x.Next(t.Context(), []byte(header+bare))
	if err != nil {
		t.Fatal(err)
	}
	asked, err := parseServerFirst(step.Data)
	if err != nil {
		t.Fatal(err)
	}
	final = strings.ReplaceAll(final, "NONCE", asked.nonce)
	without, _, _ := strings.Cut(final, ",p=")
	salted, err := m.Hash.salted("pencil", asked.salt, asked.iterations)
	if err != nil {
		t.Fatal(err)
	}
	proof := m.Hash.mac(salted, "Client Key")
	for i, b := range m.Hash.mac(m.Hash.sum(proof), bare+","+string(step.Data)+","+without) {
		proof[i] ^= b
	}
	return x.Next(t.Context(), []byte(strings.ReplaceAll(final, "PROOF", encoding.EncodeToString(proof))))
}

func long(n int) string { return strings.Repeat("x", n) }

// A server that does not know the password is found out, and one that wants to keep the client
// busy for minutes is not obeyed.
func TestFalseServer(t *testing.T) {
	begin := func() (*Client, string) {
		c, err := NewClient(SHA256, "user", "pencil")
		if err != nil {
			t.Fatal(err)
		}
		first, err := c.Next(nil)
		if err != nil {
			t.Fatal(err)
		}
		_, nonce, _ := strings.Cut(string(first), ",r=")
		return c, nonce
	}
	for _, bad := range []string{
		"", "e=other-error", "r=abc,s=c2FsdA==,i=4096", "r=NONCE,s=c2FsdA==,i=4096", "r=NONCEx,s=,i=4096", "r=NONCEx,s=!,i=4096",
		"r=NONCEx,s=c2FsdA==,i=4095", "r=NONCEx,s=c2FsdA==,i=1000000000", "r=NONCEx,s=c2FsdA==,i=-1", "m=x,r=NONCEx,s=c2FsdA==,i=4096",
	} {
		c, nonce := begin()
		if got, err := c.Next([]byte(strings.ReplaceAll(bad, "NONCE", nonce))); err == nil {
			t.Errorf("%q: answered with %q", bad, got)
		}
		if got, err := c.Next([]byte("v=AAAA")); err == nil || c.Verified() {
			t.Errorf("%q: and then %q", bad, got)
		}
	}
	for _, bad := range []string{"", "v=", "v=AAAA", "e=invalid-proof", "v=" + encoding.EncodeToString(make([]byte, 32))} {
		c, nonce := begin()
		if _, err := c.Next([]byte("r=" + nonce + "x,s=c2FsdA==,i=4096")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Next([]byte(bad)); err == nil || c.Verified() {
			t.Errorf("%q: verified", bad)
		}
	}
}

func TestClaim(t *testing.T) {
	for first, want := range map[string]string{"n,,n=user,r=abc": "user", "y,a=a=2Cb,n=a=2Cb,r=abc": "a,b"} {
		if got := (&Mechanism{Hash: SHA256}).Claim([]byte(first)); got != want {
			t.Errorf("%q: it claims to be %q, want %q", first, got, want)
		}
	}
}

func TestPasswords(t *testing.T) {
	for _, ok := range []string{"x", "with space", "Schlüssel", "~!\"$%", long(maxPassword)} {
		if err := CheckPassword(ok); err != nil {
			t.Errorf("%.20q: %v", ok, err)
		}
	}
	for _, bad := range []string{"", "tab\t", "\u00a0", "\u00ad", "ſ", "ﬁ", "Å\u030a", "א", "😀", "\xff", "del\x7f", long(maxPassword + 1)} {
		if err := CheckPassword(bad); err == nil {
			t.Errorf("%.20q is accepted", bad)
		}
		if _, err := NewClient(SHA256, "user", bad); err == nil {
			t.Errorf("%.20q is accepted by the client", bad)
		}
	}
}

// Whatever is sent, nobody comes in who does not know the password.
func FuzzServer(f *testing.F) {
	f.Add("n,,n=user,r=abc", "c=biws,r=abc,p=AAAA")
	f.Add("y,a=x,n=x,r=!,x=y", "c=eSws,r=!,p=")
	path := filepath.Join(f.TempDir(), "users")
	k, err := NewKeys(SHA256, "a password that nobody guesses", MinIterations)
	if err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("user:"+k.String()), 0o600); err != nil {
		f.Fatal(err)
	}
	users, err := Open(path, secret)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, first, final string) {
		x := (&Mechanism{Hash: SHA256, Users: users}).Start(auth.Attempt{})
		step, err := x.Next(t.Context(), []byte(first))
		if err == nil {
			asked, err := parseServerFirst(step.Data)
			m, again := parseClientFirst([]byte(first))
			if err != nil || again != nil || !strings.HasPrefix(asked.nonce, m.nonce) || len(asked.nonce) < len(m.nonce)+24 {
				t.Fatalf("%q is answered with %q", first, step.Data)
			}
			final = strings.ReplaceAll(final, "NONCE", asked.nonce)
		}
		if step, err := x.Next(t.Context(), []byte(final)); err == nil {
			t.Fatalf("%q, %q: let in as %q", first, final, step.Identity.User)
		}
	})
}

func FuzzClient(f *testing.F) {
	f.Add("r=NONCEx,s=c2FsdA==,i=4096", "v=AAAA")
	f.Add("r=NONCE,s=c2FsdA==,i=4096,x=y", "e=no")
	f.Fuzz(func(t *testing.T, first, final string) {
		if strings.Count(first, "i=") > 0 && !strings.Contains(first, "i=4096") {
			first = strings.ReplaceAll(first, "i=", "i=0") // not for minutes
		}
		c := &Client{hash: SHA256, password: "pencil", nonce: "NONCE", bare: "n=user,r=NONCE"}
		if _, err := c.Next(nil); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Next([]byte(first)); err != nil {
			return
		}
		if _, err := c.Next([]byte(final)); err == nil || c.Verified() {
			t.Fatalf("%q, %q: verified", first, final)
		}
	})
}
