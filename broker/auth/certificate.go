package auth

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
)

// Anonymous lets everybody in. A client certificate, if there is one with a usable name, still names
// the user.
type Anonymous struct{ Certificate Certificate }

// Authenticate accepts the attempt.
func (n Anonymous) Authenticate(ctx context.Context, a Attempt) (Identity, error) {
	id, err := n.Certificate.Authenticate(ctx, a)
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

// Attributes are what Attribute can find in a certificate: parts of the subject, the subject as a
// whole (RFC 2253), alternative names, its serial number and its SHA-256 fingerprint, both in
// lowercase hexadecimal.
var Attributes = []string{"CN", "O", "OU", "C", "L", "ST", "subject", "DNS", "URI", "email", "serial", "fingerprint"}

// Attribute returns the values of an attribute of a certificate.
func Attribute(c *x509.Certificate, key string) (values []string) {
	switch key {
	case "CN":
		values = []string{c.Subject.CommonName}
	case "O":
		values = c.Subject.Organization
	case "OU":
		values = c.Subject.OrganizationalUnit
	case "C":
		values = c.Subject.Country
	case "L":
		values = c.Subject.Locality
	case "ST":
		values = c.Subject.Province
	case "subject":
		values = []string{c.Subject.String()}
	case "DNS":
		values = c.DNSNames
	case "URI":
		for _, u := range c.URIs {
			values = append(values, u.String())
		}
	case "email":
		values = c.EmailAddresses
	case "serial":
		if c.SerialNumber != nil {
			values = []string{c.SerialNumber.Text(16)}
		}
	case "fingerprint":
		values = []string{fmt.Sprintf("%x", sha256.Sum256(c.Raw))}
	}
	return values
}

// CheckTemplate refuses a template with an attribute that there is not.
func CheckTemplate(t string) error {
	_, err := fill(t, func(key string) (string, error) {
		if !slices.Contains(Attributes, key) {
			return "", fmt.Errorf("{%s} is none of {%s}", key, strings.Join(Attributes, "}, {"))
		}
		return key, nil
	})
	return err
}

// fill puts values in the place of {KEY}.
func fill(t string, value func(key string) (string, error)) (string, error) {
	var b strings.Builder
	for {
		front, rest, found := strings.Cut(t, "{")
		b.WriteString(front)
		if !found {
			return b.String(), nil
		}
		key, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", fmt.Errorf("%q has a { without }", t)
		}
		v, err := value(key)
		if err != nil {
			return "", err
		}
		b.WriteString(v)
		t = after
	}
}

// Certificate lets in who has a client certificate. Its templates make the user name, and if need be
// the client identifier, out of Attributes in braces: "{CN}", "{O}-{serial}". Of an attribute with
// several values the first one counts.
type Certificate struct {
	User     string // empty: {CN}
	ClientID string // empty: the client's own
}

// Authenticate accepts the attempt if its certificate has what the templates want. Characters that
// mean something in a topic filter would let a name stand for the topics of others.
func (t Certificate) Authenticate(_ context.Context, a Attempt) (Identity, error) {
	if a.Certificate == nil {
		return Identity{}, fmt.Errorf("no client certificate: %w", ErrUnknown)
	}
	user, err := name(cmp.Or(t.User, "{CN}"), a.Certificate)
	if err != nil {
		return Identity{}, err
	}
	id := Identity{User: user, By: "certificate"}
	if t.ClientID != "" {
		if id.ClientID, err = name(t.ClientID, a.Certificate); err != nil {
			return Identity{}, err
		}
	}
	return id, nil
}

// name fills in a template.
func name(template string, c *x509.Certificate) (string, error) {
	s, err := fill(template, func(key string) (string, error) {
		v := Attribute(c, key)
		if len(v) == 0 || v[0] == "" {
			return "", fmt.Errorf("the client certificate has no %s", key)
		}
		return v[0], nil
	})
	if err == nil && strings.ContainsAny(s, "+#/\x00") {
		err = fmt.Errorf("the name of the client certificate, %q, has one of the characters + # / NUL", s)
	}
	return s, err
}
