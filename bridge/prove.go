package bridge

import (
	"errors"
	"fmt"

	"github.com/eclipse/paho.golang/paho"

	"gateway/broker/packet"
)

// A Prover is the bridge's side of one enhanced authentication (5.0, 4.12).
type Prover interface {
	Method() string
	// Next returns what the bridge says first, if data is nil, or in answer to the cloud.
	Next(data []byte) ([]byte, error)
	// Verified reports whether the cloud has shown all that the method wants of it.
	Verified() bool
}

// silence is what the MQTT library asks to authenticate. The wire does: the library sees no AUTH.
type silence struct{}

func (silence) Authenticate(*paho.Auth) *paho.Auth { return new(paho.Auth) }
func (silence) Authenticated()                     {}

// begin makes the prover of a connection, and returns what is said in CONNECT.
func (w *wire) begin() (method string, data []byte, err error) {
	if w.opts.prove == nil {
		return "", nil, nil
	}
	if w.prover, err = w.opts.prove(); err == nil {
		data, err = w.prover.Next(nil)
	}
	if err != nil {
		return "", nil, fmt.Errorf("authenticate: %w", err)
	}
	return w.prover.Method(), data, nil
}

// challenged answers an AUTH of the cloud.
func (w *wire) challenged(body []byte) error {
	a, err := w.decoder.Auth(body)
	switch {
	case err != nil:
	case w.prover == nil:
		err = errors.New("AUTH to a bridge that has named no method [MQTT-4.12.0-6]")
	case a.Method != w.prover.Method() || a.Reason != packet.ContinueAuthentication:
		err = fmt.Errorf("AUTH with %s and the method %.40q [MQTT-4.12.0-2] [MQTT-4.12.0-5]", a.Reason, a.Method)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	data, err := w.prover.Next(append([]byte{}, a.Data...)) // never nil, which begins
	if err != nil {
		return fmt.Errorf("authenticate: %w", err)
	}
	answer := packet.Auth{Reason: packet.ContinueAuthentication, Method: a.Method, Data: data}
	w.queue(answer.Append(nil, packet.V5))
	return nil
}

// proven checks what a CONNACK that lets the bridge in says of the cloud.
func (w *wire) proven(p *packet.ConnackProperties) error {
	if w.prover == nil {
		return nil
	}
	if p == nil || p.AuthMethod != w.prover.Method() {
		return fmt.Errorf("%w: CONNACK without the authentication method of the CONNECT [MQTT-4.12.0-5]", errProtocol)
	}
	if p.AuthData != nil {
		if _, err := w.prover.Next(p.AuthData); err != nil {
			return fmt.Errorf("authenticate: %w", err)
		}
	}
	if !w.prover.Verified() {
		return errors.New("authenticate: the cloud lets the bridge in without having shown that it knows the user")
	}
	return nil
}
