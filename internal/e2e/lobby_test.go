package e2e

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/broker/auth/scram"
	"gateway/broker/auth/totp"
	"gateway/internal/client"
)

// A lobby is a gateway that has a listener for every way to log in.
type lobby struct {
	*gateway
	ca      *authority
	roots   *x509.CertPool
	urls    map[string]map[string]string // by way and transport
	pairs   map[string]pair              // of certificates, by what is with them
	secrets map[string]string            // of devices, and of codes, by name
}

// newLobby writes the configuration for ways to log in, each with what its listeners have.
func newLobby(t *testing.T, ways map[string]string, auth string) *lobby {
	t.Helper()
	l := &lobby{ca: newAuthority(t, "lobby"), roots: x509.NewCertPool(), urls: make(map[string]map[string]string), pairs: make(map[string]pair), secrets: make(map[string]string)}
	l.roots.AddCert(l.ca.cert)
	server, listeners := l.ca.valid("gateway"), ""
	for name, settings := range ways {
		plain, secure := freeAddress(t), freeAddress(t)
		l.urls[name] = map[string]string{"TCP": "mqtt://" + plain, "TLS": "mqtts://" + secure, "WSS": "wss://" + secure}
		certificates := ""
		if strings.HasPrefix(name, "certificate") {
			certificates = fmt.Sprintf(", client_ca: %s, crl: %s", l.ca.file, filepath.Join(l.ca.dir, "ca.crl"))
			if name == "certificate" {
				certificates += ", require_certificate: true"
			}
		} else {
			listeners += fmt.Sprintf("  - {name: %s, address: %q, %s}\n", name, plain, settings)
		}
		listeners += fmt.Sprintf("  - {name: %s tls, address: %q, protocols: [mqtt, websocket], tls: {cert: %s, key: %s%s}, %s}\n", name, secure, server.cert, server.key, certificates, settings)
	}
	l.gateway = newGateway(t, listeners+"limits: {failed_logins: 1000, client_connects: 1000}\n"+auth)
	b, err := os.ReadFile(l.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.config, []byte(strings.Replace(string(b), "gateway:\n", "gateway:\n  log: debug\n", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	return l
}

// The kinds of hashes in a password file, and the methods of SCRAM.
var (
	hashKinds    = []string{"sha512", "sha512-pbkdf2", "argon2id"}
	scramMethods = []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"}
)

// fullLobby starts a gateway with every way that asks nobody else, and the people of the table. Who is
// revoked or banned is so from when it runs.
func fullLobby(t *testing.T) *lobby {
	t.Helper()
	dir := t.TempDir()
	passwords, scrams, codes := filepath.Join(dir, "passwords"), filepath.Join(dir, "scram"), filepath.Join(dir, "codes")
	l := newLobby(t, map[string]string{
		"passwords": "auth: passwords", "device": "auth: device", "methods": "methods: [SCRAM-SHA-1, SCRAM-SHA-256, SCRAM-SHA-512, PASSWORD-TOTP]",
		"certificate": `names: {user: "{CN}"}`, "certificate asked": "auth: certificate", "anonymous": "anonymous: true",
	}, fmt.Sprintf("auth: {password_file: %s, scram_file: %s, totp_file: %s}\n", passwords, scrams, codes))
	for _, kind := range hashKinds {
		for _, name := range []string{"right", "revoked", "banned"} {
			try(t, binary, "passwd", "-H", kind, "-I", "1000", "-b", passwords, kind+"-"+name, "pencil")
		}
	}
	try(t, binary, "scram", "--sha1", "--iterations", fmt.Sprint(scram.MinIterations), "--expires", "1s", "-b", scrams, "expired", "pencil")
	for _, name := range []string{"right", "revoked", "banned"} {
		try(t, binary, "scram", "--sha1", "--iterations", fmt.Sprint(scram.MinIterations), "-b", scrams, name, "pencil")
	}
	for _, name := range []string{"code-TCP", "code-TLS", "code-WSS", "code-revoked", "code-banned"} {
		try(t, binary, "passwd", "-I", "1000", "-b", passwords, name, "pencil")
		l.secrets[name], _, _ = strings.Cut(try(t, binary, "totp", codes, name), "\n")
	}
	for name, more := range map[string][]string{
		"right": nil, "disabled": nil, "revoked": nil, "banned": nil, "expired": {"--expires", "1s"}, "bound": {"--client-id", "another"}, "there": {"--address", "192.0.2.0/24"},
	} {
		l.secrets[name] = l.device(append([]string{"add", name}, more...)...)
	}
	other := newAuthority(t, "lobby")
	l.pairs["right"], l.pairs["revoked"], l.pairs["banned"], l.pairs["nameless"] = l.ca.valid("right"), l.ca.valid("revoked"), l.ca.valid("banned"), l.ca.valid("")
	l.pairs["expired"], l.pairs["wrong"] = l.ca.issue("expired", time.Now().Add(-time.Minute)), other.valid("right")
	l.ca.revoke()
	l.start()

	for _, kind := range hashKinds {
		try(t, binary, "passwd", "-D", passwords, kind+"-revoked")
		l.ban("user:" + kind + "-banned")
	}
	try(t, binary, "scram", "-D", scrams, "revoked")
	try(t, binary, "totp", "-D", codes, "code-revoked")
	l.device("remove", "revoked")
	l.device("disable", "disabled")
	l.ca.revoke(l.pairs["revoked"])
	l.ban("user:banned")
	l.ban("user:code-banned")
	l.ban("client:banned")
	l.ban("serial:" + l.ca.client(l.pairs["banned"]).Certificates[0].Leaf.SerialNumber.Text(16))
	return l
}

func (l *lobby) ban(what string) { try(l.t, binary, "ban", "--data", l.folder, "add", what) }

// device runs a subcommand of "gateway device", and returns the secret that it shows, if it does.
func (l *lobby) device(args ...string) string {
	out := try(l.t, binary, append([]string{"device", "--data", l.folder}, args...)...)
	if m := passwordLine.FindStringSubmatch(out); m != nil {
		return m[1]
	}
	return ""
}

// scram returns a guest that logs in by SCRAM.
func (l *lobby) scram(method, user, password string) guest {
	hash, err := scram.ParseHash(method)
	if err != nil {
		l.t.Fatal(err)
	}
	return guest{user: user, password: password, prover: func(string) client.Prover {
		p, err := scram.NewClient(hash, user, password)
		if err != nil {
			l.t.Fatal(err)
		}
		return p
	}}
}

// code returns a guest that logs in with a password and the one-time code of a moment. The user has a name of
// its own for each transport if it ends with a hyphen: a code counts once.
func (l *lobby) code(user, password string, moment time.Time) guest {
	return guest{user: user, password: password, prover: func(transport string) client.Prover {
		name := user
		if strings.HasSuffix(user, "-") {
			name += transport
		}
		secret := make([]byte, 20) // of nobody
		if s, ok := l.secrets[name]; ok {
			var err error
			if secret, err = totp.ParseSecret(s); err != nil {
				l.t.Fatal(err)
			}
		}
		return &script{totp.Name, []byte("\x00" + name + "\x00" + password), func([]byte) []byte {
			return []byte(totp.Code(secret, moment))
		}}
	}}
}
