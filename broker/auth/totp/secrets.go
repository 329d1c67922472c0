package totp

import (
	"bytes"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"gateway/broker/auth/roster"
)

// Secrets are those of the users of a file, a roster with the lines NAME:SECRET. A secret is in
// base32, as authenticator programs take it. Nobody gets in twice with one code: not after a restart
// either, since codes of before count for nothing then. They may be used from any goroutine.
type Secrets struct {
	file  *roster.Roster[[]byte]
	began time.Time
	now   func() time.Time

	mu   sync.Mutex
	used map[string]*use // by user; as many as have had the right password
}

// A use is what a user has done with codes.
type use struct {
	last  int64 // step of the last code that was taken
	wrong int   // codes in step that were not right
	step  int64
}

// Of codes that are guessed, by somebody who has the password, so many count in a period and the one
// after it; then nothing counts until they are over (RFC 4226, 7.3).
const mostWrong = 5

const minSecret, maxSecret = 16, 64 // bytes; RFC 4226, 4 (R6) wants 16

// Open reads a file of secrets. If that fails there are none until Look finds it in order.
func Open(path string) (*Secrets, error) {
	s := &Secrets{
		file:  roster.New(path, ParseSecret, bytes.Equal),
		began: time.Now(), now: time.Now, used: make(map[string]*use),
	}
	_, _, err := s.Look()
	return s, err
}

// Look is that of the roster.
func (s *Secrets) Look() (gone []string, changed bool, err error) {
	gone, changed, err = s.file.Look()
	if err != nil {
		return nil, false, fmt.Errorf("secrets of one-time codes: %w", err)
	}
	return gone, changed, nil
}

// use takes the code of a user.
func (s *Secrets) use(user, given string) error {
	secret, ok := s.file.All()[user]
	if !ok {
		return errors.New("it has no secret for one-time codes")
	}
	now := s.now()
	found, right := matching(secret, given, now)
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.used[user]
	if u == nil {
		// The clock may have been set since the start: what it showed then, it would show otherwise now.
		u = &use{last: step(now.Add(-now.Sub(s.began)))}
		s.used[user] = u
	}
	present := step(now)
	if present > u.step+1 || present < u.step {
		u.step, u.wrong = present, 0
	}
	u.last = min(u.last, present+around) // the clock may have gone back
	switch {
	case u.wrong >= mostWrong:
		return errors.New("too many wrong codes: none counts for a minute")
	case !right:
		u.wrong++
		return errors.New("wrong code")
	case found <= u.last:
		return errors.New("the code was used before, or is older than the gateway's start: wait for the next one")
	}
	u.last, u.wrong = found, 0
	return nil
}

// NewSecret returns a secret as authenticator programs make them, of 160 bits.
func NewSecret() string {
	b := make([]byte, 20)
	_, _ = rand.Read(b) // never fails
	return encoding.EncodeToString(b)
}

var encoding = base32.StdEncoding.WithPadding(base32.NoPadding)

// ParseSecret reads a secret, also in groups of letters and in small ones.
func ParseSecret(text string) ([]byte, error) {
	text = strings.ToUpper(strings.Join(strings.Fields(text), ""))
	b, err := encoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil || len(b) < minSecret || len(b) > maxSecret {
		return nil, fmt.Errorf("a secret is %d to %d bytes in base32", minSecret, maxSecret)
	}
	return b, nil
}

// Set writes the secret of a user into a file, in the place of the one that it had. A file that is
// not there is made.
func Set(path, name, secret string) error {
	return roster.New(path, ParseSecret, bytes.Equal).Set(name, secret)
}

// Remove removes a user from a file, and reports whether it was there.
func Remove(path, name string) (bool, error) {
	return roster.New(path, ParseSecret, bytes.Equal).Remove(name)
}

// Check reads a file of secrets and says what is wrong with it.
func Check(path string) error {
	_, _, err := roster.New(path, ParseSecret, bytes.Equal).Look()
	return err
}
