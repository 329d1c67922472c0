package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// ClientOptions are what a client in the process connects with; see packet.Connect.
type ClientOptions struct {
	ID             string // required
	CleanStart     bool
	SessionExpiry  uint32 // seconds; Never
	ReceiveMaximum uint16 // 0: as many as the server allows
	Will           *packet.Will
	// Amend, if there is one, may change a message of QoS 1 or 2 that is taken from the session's
	// queue before Next returns it. m is the message as it was published, which must not be changed.
	Amend func(p *packet.Publish, m *session.Message)
}

// A Client is a client in the same process. Its session is like every other: it can be taken
// over, it queues while the client is closed, its QoS 2 is exactly once. Its methods may be used
// from several goroutines.
type Client struct {
	srv     *Server
	session *Session
	present bool
	amend   func(*packet.Publish, *session.Message) // may be nil
	mail    mailbox
}

// ErrClosed is the error of a client that was closed.
var ErrClosed = errors.New("the client is closed")

// Connect connects a client in the process. It returns when its session is as durable as it is to
// be.
func (s *Server) Connect(o ClientOptions) (*Client, error) {
	c := &Client{srv: s, amend: o.Amend}
	c.mail = mailbox{stats: &s.stats, ready: make(signal, 1)}
	window := s.limits.Inflight
	if o.ReceiveMaximum > 0 {
		window = min(o.ReceiveMaximum, session.MaxWindow)
	}
	n, present, err := s.registry.attach(arrival{
		peer: &c.mail, id: o.ID, cleanStart: o.CleanStart,
		expiry: o.SessionExpiry, window: window, will: o.Will, version: packet.V5,
	})
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", o.ID, err)
	}
	c.session, c.present = n, present
	c.mail.open()
	n.resume()
	return c, nil
}

// SessionPresent reports whether the client found a session.
func (c *Client) SessionPresent() bool { return c.present }

// Publish publishes a message, as a PUBLISH packet does. It waits for no network and no disk; its
// payload must not be changed afterwards. At QoS 2, p.ID is the sender's packet identifier, and a
// repetition is delivered once.
//
// done is called once with the reason code of PUBACK or PUBREC, on any goroutine, the caller's
// too; it must not wait, and may publish. Nil says that nobody waits, and then the store may take its time.
func (c *Client) Publish(p packet.Publish, done func(packet.ReasonCode)) {
	c.srv.stats.Received.Add(1)
	c.srv.stats.PayloadReceived.Add(int64(len(p.Payload)))
	if done == nil && p.QoS == 2 {
		done = func(packet.ReasonCode) {}
	}
	r := newRouting(c.session, &c.mail)
	r.begin(&p)
	if p.QoS > 0 {
		c.srv.publish(r, done)
		return
	}
	c.srv.publish(r, nil)
	if done != nil {
		done(packet.Success)
	}
}

// Release releases the identifier of a QoS 2 message, as a PUBREL does. done is called when
// PUBCOMP may leave.
func (c *Client) Release(id uint16, done func(packet.ReasonCode)) {
	c.session.release(&c.mail, packet.Ack{Type: packet.PUBREL, ID: id}, func(a packet.Ack, err error) {
		if err != nil {
			a.Reason = reasonOf(err)
		}
		done(a.Reason)
	})
}

// Forget releases all identifiers of QoS 2 messages: the sender has lost its session, and will use them for
// other messages. It will not ask again, so that they are forgotten whatever the disk says, which is told until
// it takes it.
func (c *Client) Forget() {
	n := c.session
	var changes []session.Change
	n.mu.Lock()
	n.forgets++
	for _, id := range n.state.Inbox.IDs() {
		n.state.Inbox.Release(id)
		if n.durable {
			changes = append(changes, &session.Released{Client: n.id, ID: id})
		}
	}
	n.mu.Unlock()
	if len(changes) > 0 {
		c.srv.store.Submit(changes, false, nil)
	}
}

// Subscribe subscribes, as a SUBSCRIBE packet does, and returns when that is durable.
func (c *Client) Subscribe(p packet.Subscribe) (packet.Suback, error) {
	done := make(chan packet.Suback, 1)
	c.srv.handleSubscribe(c.session, &p, denied{}, unhurried, func(a packet.Suback) { done <- a })
	a := <-done
	for i, r := range a.Reasons {
		if r.Failed() {
			return a, fmt.Errorf("subscribe to %q: %s", p.Filters[i].Filter, r)
		}
	}
	return a, nil
}

// Unsubscribe unsubscribes, as an UNSUBSCRIBE packet does, and returns when that is durable.
func (c *Client) Unsubscribe(p packet.Unsubscribe) (packet.Suback, error) {
	done := make(chan packet.Suback, 1)
	c.srv.handleUnsubscribe(c.session, &p, unhurried.rest, func(a packet.Suback, _ error) { done <- a })
	a := <-done
	for i, r := range a.Reasons {
		if r.Failed() {
			return a, fmt.Errorf("unsubscribe from %q: %s", p.Filters[i], r)
		}
	}
	return a, nil
}

// Subscriptions returns the filters of the session's subscriptions, in any order.
func (c *Client) Subscriptions() []string {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	return slices.Clone(c.session.subs)
}

// Move moves subscriptions to the session of another client, and returns when that is durable. Each
// message goes to one of the two sessions, whenever it comes; no retained messages are sent. If it
// fails, the subscriptions are where they were.
func (c *Client) Move(to *Client, subs []packet.Subscription) error {
	var changes []session.Change
	for _, f := range subs {
		changes = append(changes,
			&session.Unsubscribed{Client: c.session.id, Filter: f.Filter},
			&session.Subscribed{Client: to.session.id, Subscription: f})
	}
	c.srv.routes.move(c.session, to.session, subs)
	if !c.session.durable || !to.session.durable {
		return nil
	}
	done := make(chan error, 1)
	c.srv.store.Submit(changes, false, func(err error) { done <- err })
	if err := <-done; err != nil {
		c.srv.routes.move(to.session, c.session, subs)
		return fmt.Errorf("move subscriptions: %w", err)
	}
	return nil
}

// Waiting returns how many messages of the session are not Done, at most: some that are Done
// between others may be counted.
func (c *Client) Waiting() int {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	return c.session.state.Queue.Len()
}

// Next returns the next message, waiting for one if need be. What was not acknowledged before the
// client connected comes first, in order. At QoS 1 and 2, p.ID stands for the message until Done;
// released says that Accepted was durable before, so that only PUBREL is due, and p has nothing
// but QoS and ID. The error is ErrClosed, another that says who ended the session's connection,
// or ctx's.
func (c *Client) Next(ctx context.Context) (p packet.Publish, released bool, err error) {
	i, drained, err := c.mail.next(ctx)
	if drained {
		c.session.resume()
	}
	if i.m != nil && c.amend != nil {
		c.amend(&i.p, i.m)
	}
	return i.p, i.released, err
}

// Frees reports whether a receiver behind the client may have the identifier of a message at QoS 2 for another
// one, which the session knows nothing of: PUBREL has to go before its PUBLISH.
func (c *Client) Frees(id uint16) bool {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	e := c.session.state.Queue.Find(id)
	return e != nil && e.Frees
}

// Accepted tells that PUBREC has come for a message. done(nil) is called when that is durable, so
// that PUBREL may leave; done(err) when it cannot be.
func (c *Client) Accepted(id uint16, done func(error)) {
	err := c.session.acknowledge(&c.mail, packet.Ack{Type: packet.PUBREC, ID: id}, func(_ packet.Ack, err error) { done(err) })
	if err != nil {
		done(err)
	}
}

// Done tells that a message is delivered: PUBACK or PUBCOMP has come.
func (c *Client) Done(id uint16) { c.session.done(&c.mail, id) }

// Close disconnects without a will. A session with an expiry interval stays.
func (c *Client) Close() error {
	c.mail.end(ErrClosed)
	c.srv.registry.detach(c.session, &c.mail, true)
	return nil
}
