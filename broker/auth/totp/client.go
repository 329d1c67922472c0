package totp

import (
	"errors"
	"strings"
)

// A Client is the client's side of one exchange.
type Client struct {
	name, password, code string
	stage                int
}

// NewClient returns the client's side of an exchange, for a user whose telephone shows code now.
func NewClient(name, password, code string) (*Client, error) {
	if name == "" || strings.Contains(name+password, "\x00") {
		return nil, errors.New("a user name is needed, and neither it nor the password may have a NUL")
	}
	return &Client{name: name, password: password, code: code}, nil
}

// Method returns the authentication method.
func (*Client) Method() string { return Name }

// Next returns the password, and in answer to the server the code.
func (c *Client) Next([]byte) ([]byte, error) {
	c.stage++
	switch c.stage {
	case 1:
		return []byte("\x00" + c.name + "\x00" + c.password), nil
	case 2:
		return []byte(c.code), nil
	}
	return nil, errors.New(Name + ": the server asks for more than a password and a code")
}

// Verified reports whether all has been said: that the server is the right one is for TLS to find
// out.
func (c *Client) Verified() bool { return c.stage == 2 }
