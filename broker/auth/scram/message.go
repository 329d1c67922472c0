package scram

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A clientFirst is the first message of a client (RFC 5802, 7: client-first-message).
type clientFirst struct {
	header string // gs2-header: what the client says about channel binding, and for whom it acts
	bare   string
	name   string
	nonce  string
}

// A serverFirst is the answer to it.
type serverFirst struct {
	nonce      string // of both sides
	salt       []byte
	iterations int
}

// A clientFinal is the second message of a client.
type clientFinal struct {
	without string // the message without the proof
	binding []byte
	nonce   string
	proof   []byte
}

// attributes takes attributes, such as n=user, from the front of a message. After the first error
// it yields empty values.
type attributes struct {
	rest string
	err  error
}

// read begins a message.
func read(message []byte) *attributes {
	a := &attributes{rest: string(message)}
	switch {
	case len(message) > maxMessage:
		a.fail(fmt.Errorf("a message of %d bytes: at most %d are allowed", len(message), maxMessage))
	case !utf8.Valid(message) || strings.IndexByte(a.rest, 0) >= 0:
		a.fail(errors.New("a message is not UTF-8 text"))
	}
	return a
}

func (a *attributes) fail(err error) {
	if a.err == nil {
		a.err, a.rest = err, ""
	}
}

// cut returns what is before the next comma.
func (a *attributes) cut() string {
	s, rest, _ := strings.Cut(a.rest, ",")
	a.rest = rest
	return s
}

// value returns the value of the next attribute, which must have this name.
func (a *attributes) value(name byte) string {
	s := a.cut()
	if len(s) < 2 || s[0] != name || s[1] != '=' {
		if s != "" && s[0] == 'm' {
			a.fail(errors.New("an extension that has to be understood, and is not (m=)"))
		}
		a.fail(fmt.Errorf("attribute %c= is missing", name))
		return ""
	}
	return s[2:]
}

// bytes returns the next attribute, decoded.
func (a *attributes) bytes(name byte) []byte {
	s := a.value(name)
	b, err := encoding.DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") { // which the decoder skips
		a.fail(fmt.Errorf("attribute %c= is not in base64", name))
	}
	return b
}

// nonce returns the next attribute, a nonce: printable characters but the comma.
func (a *attributes) nonce() string {
	s := a.value('r')
	bad := strings.ContainsFunc(s, func(r rune) bool { return r < '!' || r > '~' })
	if a.err == nil && (s == "" || len(s) > maxNonce || bad) {
		a.fail(errors.New("the nonce is empty, too long, or not printable"))
	}
	return s
}

// extensions passes over the optional attributes that may end a message.
func (a *attributes) extensions() {
	for a.err == nil && a.rest != "" {
		s := a.cut()
		letter := s != "" && (s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z')
		if !letter || len(s) < 3 || s[1] != '=' {
			a.fail(errors.New("an attribute is not as it should be"))
		}
	}
}

// encoding is base64 in its one true form: two texts never stand for the same bytes.
var encoding = base64.StdEncoding.Strict()

// parseClientFirst reads the first message of a client. Channel binding is refused, as no name of
// a mechanism here ends with -PLUS; that the client could have it (y) is all right, since the
// server could not. To act for another user is refused.
func parseClientFirst(message []byte) (clientFirst, error) {
	a := read(message)
	binding, other := a.cut(), a.cut()
	m := clientFirst{header: binding + "," + other + ",", bare: a.rest}
	if a.err == nil && binding != "n" && binding != "y" {
		a.fail(errors.New("the client asks for channel binding, which this mechanism does not have"))
	}
	m.name = unescape(a, a.value('n'))
	m.nonce = a.nonce()
	a.extensions()
	if a.err == nil && other != "" && other != "a="+escape(m.name) {
		a.fail(errors.New("the client asks to act for another user"))
	}
	if a.err == nil && len(m.name) > maxName {
		a.fail(fmt.Errorf("a user name of %d bytes: at most %d are allowed", len(m.name), maxName))
	}
	if a.err != nil {
		return clientFirst{}, a.err
	}
	return m, nil
}

// unescape reads a name, in which =2C and =3D stand for a comma and an equals sign.
func unescape(a *attributes, s string) string {
	if strings.Count(s, "=") != strings.Count(s, "=2C")+strings.Count(s, "=3D") {
		a.fail(errors.New("the user name has = without 2C or 3D"))
	}
	return strings.NewReplacer("=2C", ",", "=3D", "=").Replace(s)
}

func escape(name string) string {
	return strings.NewReplacer(",", "=2C", "=", "=3D").Replace(name)
}

func parseServerFirst(message []byte) (serverFirst, error) {
	a := read(message)
	m := serverFirst{nonce: a.nonce(), salt: a.bytes('s')}
	n, err := strconv.Atoi(a.value('i'))
	a.extensions()
	switch {
	case a.err != nil:
		return serverFirst{}, a.err
	case err != nil || n < MinIterations || n > MaxIterations:
		return serverFirst{}, fmt.Errorf("the server asks for %d iterations: want %d to %d", n, MinIterations, MaxIterations)
	case len(m.salt) == 0:
		return serverFirst{}, errors.New("the server's salt is empty")
	}
	m.iterations = n
	return m, nil
}

func (m serverFirst) String() string {
	return "r=" + m.nonce + ",s=" + encoding.EncodeToString(m.salt) + ",i=" + strconv.Itoa(m.iterations)
}

func parseClientFinal(message []byte) (clientFinal, error) {
	without, _, _ := strings.Cut(string(message), ",p=")
	a := read(message)
	m := clientFinal{without: without, binding: a.bytes('c'), nonce: a.nonce()}
	// Extensions may stand before the proof.
	for a.err == nil && a.rest != "" && !strings.HasPrefix(a.rest, "p=") {
		extension := attributes{rest: a.cut()}
		if extension.extensions(); extension.err != nil {
			a.fail(extension.err)
		}
	}
	m.proof = a.bytes('p')
	if a.err == nil && a.rest != "" {
		a.fail(errors.New("something follows the proof"))
	}
	if a.err != nil {
		return clientFinal{}, a.err
	}
	return m, nil
}

// parseServerFinal returns the server's signature.
func parseServerFinal(message []byte) ([]byte, error) {
	a := read(message)
	if what, refused := strings.CutPrefix(a.rest, "e="); refused {
		return nil, fmt.Errorf("the server refuses: %.100q", what)
	}
	signature := a.bytes('v')
	a.extensions()
	return signature, a.err
}
