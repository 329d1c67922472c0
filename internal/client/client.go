// Package client is a small MQTT 3.1.1 and 5.0 client. The command line, the end-to-end tests
// and the benchmark use it; the bridge does not.
//
// A Client is one network connection. What has to outlive a connection, which is packet
// identifiers and the stages of unacknowledged messages, is in a Session: whoever gives the
// same Session to the next Dial goes on where the connection broke.
package client

import (
	"context"
	"errors"
	"fmt"

	"gateway/broker/packet"
)

// Errors that end a connection or a delivery.
var (
	// ErrClosed says that the connection was ended by this side.
	ErrClosed = errors.New("the connection was closed by this client")
	// ErrSessionLost says that the server no longer knew the session: whether the message
	// was delivered is unknown.
	ErrSessionLost = errors.New("the server has lost the session")
)

// An Error is a refusal by the server.
type Error struct {
	Op     string // what was refused, or "disconnected"
	Reason packet.ReasonCode
	Text   string // the server's reason string, empty before 5.0
}

func (e *Error) Error() string {
	if e.Text != "" {
		return fmt.Sprintf("%s: %v (%s)", e.Op, e.Reason, e.Text)
	}
	return fmt.Sprintf("%s: %v", e.Op, e.Reason)
}

// A Client is one connection to an MQTT server. Its methods may be called from any goroutine,
// but from Receive and done callbacks only Err, Connack and Done.
type Client struct {
	l       *link
	s       *Session
	private bool // the session ends with the connection
	connack packet.Connack
	done    chan struct{} // closed when both goroutines have ended
}

// Connack returns the server's answer to CONNECT.
func (c *Client) Connack() packet.Connack { return c.connack }

// Done is closed when the connection has ended and no callback will be called any more.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why the connection ended, nil while it lives.
func (c *Client) Err() error {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	return c.l.err
}

// Close drops the connection without DISCONNECT, as a crash or a cut cable does, and waits until
// it has ended.
func (c *Client) Close() {
	c.l.fail(ErrClosed)
	<-c.done
}

// Disconnect sends what is waiting and DISCONNECT, and waits until the server closes the
// connection: to close first, with something still unread, would reset it and might take the
// DISCONNECT along. It does not wait for acknowledgements; Wait does.
func (c *Client) Disconnect(ctx context.Context) error {
	defer c.Close()
	c.l.mu.Lock()
	c.l.leaving = true
	c.l.put(&packet.Disconnect{})
	c.l.mu.Unlock()
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("disconnect: %w", ctx.Err())
	}
}

// Send takes one message. It waits while the window is full, or too much is unsent, and returns
// nil when the message is taken: from then on done, which may be nil, is called once. QoS 0 is
// done when it is taken. The payload must not be changed before done.
//
// done gets the reason code of the last acknowledgement. It gets an error instead when the
// outcome is unknown: ErrSessionLost, or the end of a connection that has no Session. It runs
// on the reading goroutine and must not wait.
func (c *Client) Send(ctx context.Context, p packet.Publish, done func(packet.ReasonCode, error)) error {
	if done == nil {
		done = func(packet.ReasonCode, error) {}
	}
	if err := c.take(ctx, p, done); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if p.QoS == 0 {
		done(packet.Success, nil)
	}
	return nil
}

func (c *Client) take(ctx context.Context, p packet.Publish, done func(packet.ReasonCode, error)) error {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if p.QoS == 0 {
		if err := c.l.await(ctx, func() bool { return len(c.l.unsent) < maxUnsent }); err != nil {
			return err
		}
		c.l.put(&p)
		return nil
	}
	if err := c.l.await(ctx, func() bool { return len(c.s.out) < c.s.window }); err != nil {
		return err
	}
	p.ID, p.Dup = c.s.nextID(), false
	c.s.out = append(c.s.out, &outgoing{publish: p, done: done})
	c.s.pump()
	return nil
}

// Publish sends one message and waits for its acknowledgement, whose code it returns. A failure
// code is an *Error as well.
func (c *Client) Publish(ctx context.Context, p packet.Publish) (packet.ReasonCode, error) {
	type result struct {
		reason packet.ReasonCode
		err    error
	}
	acked := make(chan result, 1) // done is called once and must not wait
	err := c.Send(ctx, p, func(r packet.ReasonCode, err error) { acked <- result{r, err} })
	if err != nil {
		return 0, err
	}
	select {
	case r := <-acked:
		if r.err != nil {
			return 0, fmt.Errorf("publish: %w", r.err)
		}
		if r.reason.Failed() {
			return r.reason, &Error{Op: "publish", Reason: r.reason}
		}
		return r.reason, nil
	case <-c.l.stop:
		return 0, fmt.Errorf("publish: no acknowledgement: %w", c.Err())
	case <-ctx.Done():
		return 0, fmt.Errorf("publish: no acknowledgement: %w", ctx.Err())
	}
}

// Wait blocks until every message that Send took is acknowledged, or the connection has ended.
func (c *Client) Wait(ctx context.Context) error {
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	err := c.l.await(ctx, func() bool { return len(c.s.out) == 0 && c.l.flushed() })
	if err != nil {
		return fmt.Errorf("%d messages without acknowledgement: %w", len(c.s.out), err)
	}
	return nil
}

// Subscribe subscribes and waits for the answer, which has one code per filter; codes from 0x80
// are refusals and no error of Subscribe.
func (c *Client) Subscribe(ctx context.Context, filters ...packet.Subscription) ([]packet.ReasonCode, error) {
	ack, err := c.request(ctx, func(id uint16) encoder { return &packet.Subscribe{ID: id, Filters: filters} })
	if err == nil && len(ack.Reasons) != len(filters) {
		err = fmt.Errorf("%d codes for %d filters [MQTT-3.9.3-1]", len(ack.Reasons), len(filters))
	}
	if err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	return ack.Reasons, nil
}

// Unsubscribe unsubscribes and waits for the answer.
func (c *Client) Unsubscribe(ctx context.Context, filters ...string) error {
	_, err := c.request(ctx, func(id uint16) encoder { return &packet.Unsubscribe{ID: id, Filters: filters} })
	if err != nil {
		return fmt.Errorf("unsubscribe: %w", err)
	}
	return nil
}

// request sends the packet that has the given identifier and waits for its SUBACK or UNSUBACK.
func (c *Client) request(ctx context.Context, withID func(uint16) encoder) (packet.Suback, error) {
	answer := make(chan packet.Suback, 1) // the reader never waits: there is one answer
	c.l.mu.Lock()
	id := c.s.nextID()
	c.s.answers[id] = answer
	c.l.put(withID(id))
	c.l.mu.Unlock()
	select {
	case ack := <-answer:
		return ack, nil
	case <-c.l.stop:
		return packet.Suback{}, c.Err()
	case <-ctx.Done():
		return packet.Suback{}, fmt.Errorf("no answer: %w", ctx.Err())
	}
}
