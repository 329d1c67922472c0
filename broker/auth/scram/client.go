package scram

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
)

// A Client is the client's side of one exchange: the client's first message is that of Next(nil),
// each other one answers a message of the server. The last message of the server is answered with
// nothing, and from then on Verified reports true: the server knows the password too.
//
// An exchange takes as long as the server's iterations; MaxIterations bounds them.
type Client struct {
	hash     Hash
	password string
	nonce    string
	bare     string // client-first-message-bare

	stage     int
	signature []byte // what the server has to show
	verified  bool
}

// NewClient returns the client's side of an exchange for a user. A Client is for one exchange.
func NewClient(h Hash, name, password string) (*Client, error) {
	if err := CheckPassword(password); err != nil {
		return nil, err
	}
	if name == "" || len(name) > maxName || strings.ContainsFunc(name, changes) {
		return nil, fmt.Errorf("user name %.40q: want 1 to %d bytes of printable ASCII", name, maxName)
	}
	nonce := rand.Text()
	return &Client{hash: h, password: password, nonce: nonce, bare: "n=" + escape(name) + ",r=" + nonce}, nil
}

// Method returns the name of the mechanism.
func (c *Client) Method() string { return c.hash.String() }

// header says that there is no channel binding, and that the user acts for itself.
const header = "n,,"

// Next takes a message of the server and returns the client's next one.
func (c *Client) Next(message []byte) ([]byte, error) {
	c.stage++
	var answer string
	var err error
	switch c.stage {
	case 1:
		answer = header + c.bare
	case 2:
		answer, err = c.prove(message)
	case 3:
		err = c.verify(message)
	default:
		err = errors.New("the exchange is over")
	}
	if err != nil {
		c.stage = 3
		return nil, fmt.Errorf("%s: %w", c.hash, err)
	}
	return []byte(answer), nil
}

// Verified reports whether the server has shown that it knows the user's keys.
func (c *Client) Verified() bool { return c.verified }

func (c *Client) prove(message []byte) (string, error) {
	m, err := parseServerFirst(message)
	if err != nil {
		return "", err
	}
	if len(m.nonce) <= len(c.nonce) || !strings.HasPrefix(m.nonce, c.nonce) {
		return "", errors.New("the server answers with a nonce that does not begin with the client's")
	}
	salted, err := c.hash.salted(c.password, m.salt, m.iterations)
	if err != nil {
		return "", err
	}
	without := "c=" + encoding.EncodeToString([]byte(header)) + ",r=" + m.nonce
	text := c.bare + "," + string(message) + "," + without
	key := c.hash.mac(salted, "Client Key")
	proof := make([]byte, len(key))
	subtle.XORBytes(proof, key, c.hash.mac(c.hash.sum(key), text))
	c.signature = c.hash.mac(c.hash.mac(salted, "Server Key"), text)
	return without + ",p=" + encoding.EncodeToString(proof), nil
}

func (c *Client) verify(message []byte) error {
	signature, err := parseServerFinal(message)
	if err != nil {
		return err
	}
	if !hmac.Equal(signature, c.signature) {
		return errors.New("the server does not know the password: it is not the one that it says it is")
	}
	c.verified = true
	return nil
}
