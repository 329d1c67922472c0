package auth

import (
	"context"
	"fmt"
	"strings"
)

// Anonymous lets everybody in. A client certificate, if there is one with a usable common name,
// still names the user.
type Anonymous struct{}

// Authenticate accepts the attempt.
func (Anonymous) Authenticate(ctx context.Context, a Attempt) (Identity, error) {
	id, err := Certificate{}.Authenticate(ctx, a)
	if err != nil {
		return Identity{By: "anonymous"}, nil
	}
	return id, nil
}

// Nameless lets in who gives no user name, as nobody. It is for the end of a Chain.
type Nameless struct{}

// Authenticate accepts the attempt if it has no user name.
func (Nameless) Authenticate(_ context.Context, a Attempt) (Identity, error) {
	if a.Username != "" {
		return Identity{}, fmt.Errorf("nobody knows user %q: %w", a.Username, ErrUnknown)
	}
	return Identity{By: "anonymous"}, nil
}

// Certificate lets in who has a client certificate; the common name of its subject becomes the
// user name.
type Certificate struct{}

// Authenticate accepts the attempt if its certificate has a usable common name: characters that
// mean something in a topic filter would let a name stand for the topics of others.
func (Certificate) Authenticate(_ context.Context, a Attempt) (Identity, error) {
	if a.Certificate == nil {
		return Identity{}, fmt.Errorf("no client certificate: %w", ErrUnknown)
	}
	name := a.Certificate.Subject.CommonName
	if name == "" {
		return Identity{}, fmt.Errorf("the client certificate has no common name")
	}
	if strings.ContainsAny(name, "+#/\x00") {
		return Identity{}, fmt.Errorf("the common name of the client certificate has one of the characters + # / NUL")
	}
	return Identity{User: name, By: "certificate"}, nil
}
