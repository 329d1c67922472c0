// Package scram is the SCRAM family of authentication mechanisms (RFC 5802, RFC 7677), both sides
// of it. The client shows that it knows the password, the server that it knows the user, and
// neither the connection nor the server's file has what it takes to log in.
//
// Of the names SCRAM-SHA-1, SCRAM-SHA-256 and SCRAM-SHA-512 none has channel binding: TLS looks
// after the connection. SCRAM-SHA-1 is there for clients that know no better one.
package scram

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
	"strings"

	"gateway/broker/auth/roster"
)

// A Hash is the hash function of a mechanism.
type Hash byte

// The hash functions.
const (
	SHA1 Hash = iota + 1
	SHA256
	SHA512
)

// Hashes are all of them, the strongest first.
var Hashes = []Hash{SHA512, SHA256, SHA1}

// ParseHash returns the hash function of a mechanism.
func ParseHash(mechanism string) (Hash, error) {
	for _, h := range Hashes {
		if h.String() == mechanism {
			return h, nil
		}
	}
	return 0, fmt.Errorf("mechanism %.40q is none of SCRAM-SHA-512, SCRAM-SHA-256 and SCRAM-SHA-1", mechanism)
}

// String returns the name of the mechanism, as it is registered.
func (h Hash) String() string {
	switch h {
	case SHA1:
		return "SCRAM-SHA-1"
	case SHA256:
		return "SCRAM-SHA-256"
	case SHA512:
		return "SCRAM-SHA-512"
	}
	return "no SCRAM"
}

func (h Hash) new() hash.Hash {
	switch h {
	case SHA256:
		return sha256.New()
	case SHA512:
		return sha512.New()
	}
	return sha1.New()
}

// size returns the bytes of a key.
func (h Hash) size() int { return h.new().Size() }

// sum is H of RFC 5802, 2.2.
func (h Hash) sum(b []byte) []byte {
	d := h.new()
	d.Write(b)
	return d.Sum(nil)
}

// mac is HMAC of RFC 5802, 2.2.
func (h Hash) mac(key []byte, text string) []byte {
	m := hmac.New(h.new, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// Bounds of what the two sides accept.
const (
	MinIterations     = 4096       // RFC 7677, 4
	MaxIterations     = 10_000_000 // a small board takes minutes for it
	DefaultIterations = 10_000     // a microcontroller takes seconds for it
	minSalt, maxSalt  = 8, 64      // bytes
	newSalt           = 16         // bytes
	maxName           = 256        // bytes of a user's name
	maxPassword       = 1024       // bytes
	maxMessage        = 2048       // bytes of a message
	maxNonce          = 512        // bytes, that of both sides together
)

// Keys are what the server keeps of a password (RFC 5802, 3). Who has read them can pretend to be
// the server, and can try passwords; to log in takes the password.
type Keys struct {
	Hash       Hash
	Iterations int
	Salt       []byte
	Stored     []byte
	Server     []byte
}

// NewKeys returns the keys of a password, with a fresh salt.
func NewKeys(h Hash, password string, iterations int) (Keys, error) {
	if err := CheckPassword(password); err != nil {
		return Keys{}, err
	}
	if iterations < MinIterations || iterations > MaxIterations {
		return Keys{}, fmt.Errorf("%d iterations: want %d to %d", iterations, MinIterations, MaxIterations)
	}
	salt := make([]byte, newSalt)
	_, _ = rand.Read(salt) // never fails
	k := Keys{Hash: h, Iterations: iterations, Salt: salt}
	salted, err := h.salted(password, k.Salt, k.Iterations)
	if err != nil {
		return Keys{}, err
	}
	k.Stored = h.sum(h.mac(salted, "Client Key"))
	k.Server = h.mac(salted, "Server Key")
	return k, nil
}

// salted is SaltedPassword of RFC 5802, 3.
func (h Hash) salted(password string, salt []byte, iterations int) ([]byte, error) {
	b, err := pbkdf2.Key(h.new, password, salt, iterations, h.size())
	if err != nil {
		return nil, fmt.Errorf("salt the password: %w", err)
	}
	return b, nil
}

// CheckPassword refuses a password that not every client would write in the same way. SCRAM wants
// names and passwords prepared by SASLprep (RFC 4013), which many clients leave out; what is let
// through here, printable ASCII and the letters of Western Europe, is the same with and without.
func CheckPassword(password string) error {
	if password == "" {
		return fmt.Errorf("the password is empty")
	}
	if len(password) > maxPassword {
		return fmt.Errorf("the password has %d bytes: at most %d are allowed", len(password), maxPassword)
	}
	if strings.ContainsFunc(password, changes) {
		return fmt.Errorf("the password has a character that some clients write differently: use printable ASCII")
	}
	return nil
}

// CheckName refuses a user name for the same reason, or one that no roster takes.
func CheckName(name string) error {
	if strings.ContainsFunc(name, changes) {
		return fmt.Errorf("user name %q has a character that some clients write differently: use printable ASCII", name)
	}
	return roster.CheckName(name)
}

// changes reports whether SASLprep may change a character, or refuse it.
func changes(r rune) bool {
	western := r >= 0xC0 && r <= 0xFF // À to ÿ
	return (r < ' ' || r > '~') && !western
}
