package client

import (
	"context"
	"errors"
	"fmt"

	"gateway/broker/packet"
)

// A Prover is the client's side of one enhanced authentication (5.0, 4.12).
type Prover interface {
	Method() string
	// Next returns what the client says first, if data is nil, or in answer to the server.
	Next(data []byte) ([]byte, error)
	// Verified reports whether the server has shown all that the method wants of it.
	Verified() bool
}

// A proof is an authentication that goes on.
type proof struct {
	Prover
	done chan error // size 1: it is told once how it has ended, by whoever takes the proof from the link
}

// answer returns the AUTH that goes on after one of the server.
func (p *proof) answer(a packet.Auth) (*packet.Auth, error) {
	if err := p.check(a.Method); err != nil {
		return nil, err
	}
	if a.Reason != packet.ContinueAuthentication {
		return nil, fmt.Errorf("the server sends AUTH with %v [MQTT-4.12.0-2]", a.Reason)
	}
	data, err := p.Next(present(a.Data))
	if err != nil {
		return nil, err
	}
	return &packet.Auth{Reason: packet.ContinueAuthentication, Method: a.Method, Data: data}, nil
}

// present makes data that is empty different from none: only the first message answers nothing.
func present(data []byte) []byte {
	if data == nil {
		return []byte{}
	}
	return data
}

// conclude takes the server's last data.
func (p *proof) conclude(method string, data []byte) error {
	if err := p.check(method); err != nil {
		return err
	}
	if data != nil {
		if _, err := p.Next(data); err != nil {
			return err
		}
	}
	if !p.Verified() {
		return errors.New("the server has not shown that it knows the user")
	}
	return nil
}

func (p *proof) check(method string) error {
	if method != p.Method() {
		return fmt.Errorf("the server answers with the method %.40q, not %s [MQTT-4.12.0-5]", method, p.Method())
	}
	return nil
}

// Reauthenticate authenticates again with the method of Options.Prover, while messages go on. If
// the server does not accept it, it ends the connection; if this side does not accept the server,
// so does this one. One call at a time.
func (c *Client) Reauthenticate(ctx context.Context, p Prover) error {
	data, err := p.Next(nil)
	if err != nil {
		return fmt.Errorf("authenticate again: %w", err)
	}
	proof := &proof{p, make(chan error, 1)}
	c.l.mu.Lock()
	if c.l.proof != nil {
		c.l.mu.Unlock()
		return errors.New("authenticate again: that is going on already")
	}
	c.l.proof = proof
	c.l.put(&packet.Auth{Reason: packet.Reauthenticate, Method: p.Method(), Data: data})
	c.l.mu.Unlock()
	select {
	case err = <-proof.done:
	case <-c.l.stop:
		err = c.Err()
	case <-ctx.Done():
		err = fmt.Errorf("no answer: %w", ctx.Err())
		c.l.fail(err)
	}
	if err != nil {
		return fmt.Errorf("authenticate again: %w", err)
	}
	return nil
}

// authenticated handles an AUTH of a re-authentication.
func (v *receiver) authenticated(a packet.Auth) error {
	v.l.mu.Lock()
	p := v.l.proof
	v.l.mu.Unlock()
	if p == nil {
		return errors.New("the server sends AUTH, which it was not asked for")
	}
	if a.Reason == packet.Success {
		err := p.conclude(a.Method, a.Data)
		if err == nil {
			v.l.mu.Lock()
			v.l.proof = nil
			v.l.mu.Unlock()
			p.done <- nil
		}
		return err
	}
	answer, err := p.answer(a)
	if err != nil {
		return err
	}
	v.l.mu.Lock()
	defer v.l.mu.Unlock()
	v.l.put(answer)
	return nil
}
