// Package totp is authentication with two factors: a password, which another authenticator decides
// about, and then a one-time code that changes every 30 seconds (RFC 6238), as authenticator
// programs on telephones show it. It also is the example of a mechanism in more than one round.
//
// The client says in its CONNECT, or in the AUTH of a re-authentication,
//
//	NUL user name NUL password
//
// as SASL's PLAIN does (RFC 4616), is asked with "code", and answers with the six digits. Password
// and code are readable to whoever reads the connection: it wants TLS.
package totp

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"gateway/broker/auth"
)

// Name is the authentication method.
const Name = "PASSWORD-TOTP"

const (
	period = 30 * time.Second // of one code; the default of RFC 6238 and of every program
	digits = 6
	around = 1 // codes before and after the present one that count: clocks differ (RFC 6238, 5.2)
)

// A Mechanism authenticates with both factors. Whoever fails is refused after the second one, and
// not told at which.
type Mechanism struct {
	Password auth.Authenticator // of the first factor; the identity is its
	Secrets  *Secrets           // of the second
}

// Name returns the authentication method.
func (m *Mechanism) Name() string { return Name }

// Claim returns the user's name in the first message of a client.
func (m *Mechanism) Claim(data []byte) string {
	name, _, _ := split(data)
	return name
}

// Start begins an exchange of two messages from the client.
func (m *Mechanism) Start(a auth.Attempt) auth.Exchange { return &exchange{m: m, attempt: a} }

// An exchange is one authentication.
type exchange struct {
	m       *Mechanism
	attempt auth.Attempt
	asked   bool
	done    bool
	id      auth.Identity
	err     error // what is wrong with the first factor
}

// Next takes the password, and then the code.
func (x *exchange) Next(ctx context.Context, data []byte) (auth.Step, error) {
	if x.done {
		return auth.Step{}, errors.New("the exchange is over")
	}
	if !x.asked {
		x.asked = true
		x.first(ctx, data)
		if errors.Is(x.err, auth.ErrBanned) || errors.Is(x.err, auth.ErrUnavailable) {
			x.done = true
			return auth.Step{}, x.err
		}
		return auth.Step{Data: []byte("code")}, nil
	}
	x.done = true
	if x.err == nil {
		x.err = x.m.Secrets.use(x.attempt.Username, string(data))
	}
	if x.err != nil {
		return auth.Step{}, fmt.Errorf("%s: user %q: %w", Name, x.attempt.Username, x.err)
	}
	return auth.Step{Done: true, Identity: x.id}, nil
}

// first checks the first factor.
func (x *exchange) first(ctx context.Context, data []byte) {
	name, password, ok := split(data)
	claimed := x.attempt.Username
	switch {
	case !ok:
		x.err = errors.New("the first message is not NUL user name NUL password")
		return
	case claimed != "" && claimed != name:
		x.err = fmt.Errorf("the CONNECT names another user than the method, %q", name)
		return
	}
	x.attempt.Username, x.attempt.Password = name, []byte(password)
	x.id, x.err = x.m.Password.Authenticate(ctx, x.attempt)
	x.attempt.Password = nil
	if x.err == nil && x.id.User != x.attempt.Username {
		x.err = fmt.Errorf("it was found to be user %q", x.id.User)
	}
}

// split parts the first message. To act for somebody else, whose name may stand before the first NUL,
// is not possible.
func split(data []byte) (name, password string, ok bool) {
	parts := strings.Split(string(data), "\x00")
	if len(parts) != 3 || parts[1] == "" || parts[0] != "" && parts[0] != parts[1] {
		return "", "", false
	}
	return parts[1], parts[2], true
}

// step returns the number of a time's code (RFC 6238, 4.2).
func step(at time.Time) int64 { return at.Unix() / int64(period/time.Second) }

// code is HOTP of RFC 4226, 5.3.
func code(secret []byte, step int64, digits int) string {
	m := hmac.New(sha1.New, secret)
	_ = binary.Write(m, binary.BigEndian, step) // a hash takes everything
	sum := m.Sum(nil)
	at := sum[len(sum)-1] & 0xF
	n := binary.BigEndian.Uint32(sum[at:]) & 0x7FFF_FFFF
	modulus := uint32(1)
	for range digits {
		modulus *= 10
	}
	return fmt.Sprintf("%0*d", digits, n%modulus)
}

// matching returns the step near now whose code is given.
func matching(secret []byte, given string, now time.Time) (found int64, ok bool) {
	for s := step(now) - around; s <= step(now)+around; s++ {
		if subtle.ConstantTimeCompare([]byte(code(secret, s, digits)), []byte(given)) == 1 {
			found, ok = s, true
		}
	}
	return found, ok
}

// Code returns the code that a secret has at a time, for clients.
func Code(secret []byte, at time.Time) string { return code(secret, step(at), digits) }
