package scram

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"gateway/broker/auth"
)

// A Mechanism is the server's side of one mechanism of the family. A user that does not exist is
// asked for a proof like every other, with a salt that stays the same, and refused as late.
//
// Nothing here is expensive: the server has the keys, the client has to make them.
type Mechanism struct {
	Hash  Hash
	Users *Users
	Now   func() time.Time // the time of day, by which users expire; nil: time.Now
}

// Name returns the registered name of the mechanism.
func (m *Mechanism) Name() string { return m.Hash.String() }

// Claim returns the user's name in the first message of a client.
func (m *Mechanism) Claim(data []byte) string {
	first, err := parseClientFirst(data)
	if err != nil {
		return ""
	}
	return first.name
}

// Start begins an exchange of two messages from each side. The attempt's user name, if it has one,
// must be that of the exchange.
func (m *Mechanism) Start(a auth.Attempt) auth.Exchange {
	now := m.Now
	if now == nil {
		now = time.Now
	}
	return &exchange{m: m, claimed: a.Username, random: rand.Text, now: now}
}

// An exchange is one authentication on the server.
type exchange struct {
	m       *Mechanism
	claimed string // user name of the CONNECT
	random  func() string
	now     func() time.Time

	stage  int // messages taken
	first  clientFirst
	asked  serverFirst
	keys   Keys
	user   user
	exists bool
}

// Next takes the client's messages, one after the other. Its errors are for the log.
func (x *exchange) Next(_ context.Context, data []byte) (auth.Step, error) {
	x.stage++
	var step auth.Step
	var err error
	switch x.stage {
	case 1:
		step, err = x.begin(data)
	case 2:
		step, err = x.finish(data)
	default:
		err = errors.New("the exchange is over")
	}
	if err != nil {
		x.stage = 2 // an exchange that has failed does not go on
		return auth.Step{}, fmt.Errorf("%s: %w", x.m.Hash, err)
	}
	return step, nil
}

func (x *exchange) begin(data []byte) (auth.Step, error) {
	m, err := parseClientFirst(data)
	if err != nil {
		return auth.Step{}, err
	}
	x.first = m
	x.user, x.keys, x.exists = x.m.Users.find(m.name, x.m.Hash)
	x.asked = serverFirst{m.nonce + x.random(), x.keys.Salt, x.keys.Iterations}
	return auth.Step{Data: []byte(x.asked.String())}, nil
}

// finish checks the proof. What it looks at is compared before it is told apart, so that the time
// does not tell who exists.
func (x *exchange) finish(data []byte) (auth.Step, error) {
	m, err := parseClientFinal(data)
	if err != nil {
		return auth.Step{}, err
	}
	h := x.m.Hash
	text := x.first.bare + "," + x.asked.String() + "," + m.without
	signature := h.mac(x.keys.Stored, text)
	proven := false
	if len(m.proof) == len(signature) {
		key := make([]byte, len(signature))
		subtle.XORBytes(key, signature, m.proof)
		proven = hmac.Equal(h.sum(key), x.keys.Stored)
	}
	answer := "v=" + encoding.EncodeToString(h.mac(x.keys.Server, text))
	name := x.first.name
	switch {
	case string(m.binding) != x.first.header:
		return auth.Step{}, errors.New("the client repeats another header than it began with")
	case m.nonce != x.asked.nonce:
		return auth.Step{}, errors.New("the client answers another server, or an earlier exchange")
	case !x.exists:
		return auth.Step{}, fmt.Errorf("no user %q with a key of this mechanism", name)
	case !proven:
		return auth.Step{}, fmt.Errorf("user %q: wrong password", name)
	case !x.unchanged():
		return auth.Step{}, fmt.Errorf("user %q has changed meanwhile", name)
	case x.claimed != "" && x.claimed != name:
		return auth.Step{}, fmt.Errorf("user %q: the CONNECT names another, %q", name, x.claimed)
	case x.user.disabled:
		return auth.Step{}, fmt.Errorf("user %q is disabled", name)
	case !x.user.expires.IsZero() && !x.now().Before(x.user.expires):
		return auth.Step{}, fmt.Errorf("user %q has expired", name)
	}
	return auth.Step{
		Data: []byte(answer), Done: true,
		Identity: auth.Identity{User: name, Expires: x.user.expires, By: By},
	}, nil
}

// unchanged reports whether the user is still who it was when the exchange began.
func (x *exchange) unchanged() bool {
	now, _, exists := x.m.Users.find(x.first.name, x.m.Hash)
	return exists && same(now, x.user)
}

// By is what the identities of this package say of where they come from.
const By = "scram"
