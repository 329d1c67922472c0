// Package auth decides who a client is.
package auth

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"strings"
)

// An Attempt is what a client shows when it connects.
type Attempt struct {
	ClientID    string
	Username    string
	Password    []byte
	Certificate *x509.Certificate // verified; nil when there is none
	Addr        net.Addr
}

// An Identity is who a client was found to be.
type Identity struct {
	User string // empty for an anonymous client
}

// An Authenticator decides about an Attempt. Its error is for the log and, where the protocol
// has room for it, for the client: it tells nothing that helps to guess.
type Authenticator interface {
	Authenticate(ctx context.Context, a Attempt) (Identity, error)
}

// ErrRefused is what a client is told that may not come in.
var ErrRefused = errors.New("not authorized")

// Anonymous lets everybody in. A client certificate, if there is one with a usable common name,
// still names the user.
type Anonymous struct{}

// Authenticate accepts the attempt.
func (Anonymous) Authenticate(ctx context.Context, a Attempt) (Identity, error) {
	id, err := Certificate{}.Authenticate(ctx, a)
	if err != nil {
		return Identity{}, nil
	}
	return id, nil
}

// Certificate lets in who has a client certificate; the common name of its subject becomes the
// user name.
type Certificate struct{}

// Authenticate accepts the attempt if its certificate has a usable common name: characters that
// mean something in a topic filter would let a name stand for the topics of others.
func (Certificate) Authenticate(_ context.Context, a Attempt) (Identity, error) {
	if a.Certificate == nil {
		return Identity{}, errors.New("no client certificate")
	}
	name := a.Certificate.Subject.CommonName
	if name == "" {
		return Identity{}, errors.New("the client certificate has no common name")
	}
	if strings.ContainsAny(name, "+#/\x00") {
		return Identity{}, errors.New("the common name of the client certificate has one of the characters + # / NUL")
	}
	return Identity{User: name}, nil
}
