package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"gateway/broker/auth"
	"gateway/broker/packet"
)

// A Listener says how connections from one net.Listener are treated.
type Listener struct {
	Name string // for logs
	Auth auth.Authenticator
	// Mechanisms are the methods of enhanced authentication that 5.0 clients may ask for.
	Mechanisms []auth.Mechanism
	// Rules decide what clients may do; nil: everything.
	Rules auth.Authorizer
	// EndDenied ends the connection of a client that does what it may not do.
	EndDenied bool
	Versions  []packet.Version // of MQTT that are let in; nil: all
	// Prefix is what stands before each topic of the clients here, and which they do not see. It
	// ends with /, and is not a part of another listener's. Empty: they have all topics.
	Prefix string
	Bounds Bounds
}

// A securer is a connection that has to agree with its peer on something before MQTT begins: TLS,
// WebSocket. A *tls.Conn is one.
type securer interface {
	HandshakeContext(ctx context.Context) error
	ConnectionState() tls.ConnectionState
}

// A conn is the reading side of one network connection. Its goroutine handles one packet after
// the other and never waits for the disk; its answers leave through the link.
type conn struct {
	srv      *Server
	listener *Listener
	nc       net.Conn
	address  netip.Addr // what it is counted as; see addressOf
	known    bool       // the gate's: CONNECT has been accepted
	pace     pace
	turn     turn
	in       *frames
	large    atomic.Int64 // bytes of a packet that has begun, if it is a large one
	dec      packet.Decoder
	link     link
	aliases  aliasesIn
	r        *routing

	exchange *exchange    // nil: the client uses no enhanced authentication
	client   *auth.Client // nil before it is known; written under the gate's lock
	access   *access      // what it may do
	session  *Session
	bridge   bool
	silence  silence
	goodbye  bool        // DISCONNECT came, and the will is not wanted
	expiry   *time.Timer // nil: who the client is does not expire
}

// errGone is how a client that says DISCONNECT ends its connection.
var errGone = errors.New("disconnected")

func newConn(s *Server, nc net.Conn, l *Listener) *conn {
	c := &conn{srv: s, listener: l, nc: nc, address: auth.Origin(addressOf(nc)), pace: newPace(&l.Bounds, &s.stats.Slowed)}
	c.dec.Lends = true
	c.link.mount = mount(l.Prefix)
	c.link.out.init(nc, s)
	c.link.out.receives = int(l.Bounds.ReceiveMaximum)
	c.link.drained = func() {
		s.turnstile.pass() // there is much for this client
		c.session.resume()
		lessen(&c.link.out)
	}
	return c
}

// run serves the connection until it ends, and leaves nothing behind.
func (c *conn) run() {
	err := c.handshake()
	if err == nil {
		c.silence.begin(c.nc)
		err = c.serve()
	}
	c.end(err)
}

// end ends the connection for the reason err. One that is just quiet goes on in a goroutine with
// a fresh stack: that of the old one has grown with the last packet, and would stay so.
func (c *conn) end(err error) {
	if err == errQuiet {
		c.in.quiet()
		// What this does before it waits has to fit into 2 KB, the smallest stack that there is.
		if c.srv.start(func() { c.end(c.serve()) }) {
			return
		}
		err = net.ErrClosed
	}
	if c.expiry != nil {
		c.expiry.Stop()
	}
	if c.in != nil {
		c.in.count()
	}
	c.exchange.stop()
	c.srv.turnstile.pass()
	c.close(err)
	c.link.flushers.Wait() // nothing is appended any more
	c.srv.gate.leave(c)
}

// handshake does what comes before the first packet.
func (c *conn) handshake() error {
	_ = c.nc.SetDeadline(time.Now().Add(c.listener.Bounds.ConnectTime))
	if t, ok := c.nc.(securer); ok {
		if err := t.HandshakeContext(c.srv.ctx); err != nil {
			return err
		}
	}
	c.in = newFrames(c.nc, c.listener.Bounds.PacketSize, &c.large, c.srv)
	if c.in.raw != nil {
		usePort(&c.link.out, newPort(c.in.raw))
	}
	h, body, err := c.read()
	if err != nil {
		return refuseUnread(c, h, err)
	}
	if h.Type != packet.CONNECT {
		return &packet.Error{Clause: "MQTT-3.1.0-1", Reason: packet.ProtocolError, Text: "the first packet is not CONNECT but " + h.Type.String()}
	}
	c.srv.stats.Introduced.Add(1)
	c.srv.turnstile.yield(&c.turn) // to let a client in takes as long as to pass on some hundred messages
	p, err := c.dec.Connect(body)
	c.link.version = c.dec.Version
	if err != nil {
		return c.refuse(err)
	}
	return c.connect(&p)
}

// read returns the next packet. The body is valid until the next call.
func (c *conn) read() (packet.Header, []byte, error) {
	for {
		h, body, ok, err := c.in.next(&c.dec)
		if ok || err != nil {
			return h, body, err
		}
		if err := c.in.fill(); err != nil {
			return h, nil, err
		}
	}
}

// serve handles packets until the connection ends or is quiet. The time that a keep alive allows
// begins anew with every complete packet, not with every byte [MQTT-3.1.2-22].
func (c *conn) serve() error {
	for complete := false; ; {
		h, body, ok, err := c.in.next(&c.dec)
		if err != nil {
			return err
		}
		if ok {
			err := c.handle(h, body)
			finish(&c.link)
			if err != nil {
				return err
			}
			rest(c, effort(body, c.r))
			complete = true
			continue
		}
		if complete {
			if err := c.silence.broken(c.nc); err != nil {
				return err
			}
			complete = false
		}
		if err := c.in.fill(); err != nil {
			if err = c.silence.after(c.nc, err); err != nil {
				return err
			}
		}
		if c.in.waited {
			c.turn.begin()
		} else {
			rest(c, 1)
		}
	}
}

// Of the fixed header of a PUBLISH: what is 0 at QoS 0, which is not answered, and RETAIN.
const (
	qosBits   = 0b0110
	retainBit = 0b0001
)

// handle does what one packet asks for. Its error ends the connection.
func (c *conn) handle(h packet.Header, body []byte) error {
	if h.Type == packet.PUBLISH {
		if err := c.pace.wait(c.srv.ctx, len(body)); err != nil {
			return err
		}
	}
	if h.Type != packet.PUBLISH || h.Flags&(qosBits|retainBit) != 0 {
		c.breathe()
	}
	if c.link.cause.Load() != nil {
		awaitEnd(c.srv.ctx, &c.link)
		return net.ErrClosed // what came before the end is not taken after it
	}
	//crash:packet-read
	switch h.Type {
	case packet.PUBLISH:
		return c.publish(h, body)
	case packet.PUBACK, packet.PUBREC, packet.PUBCOMP, packet.PUBREL:
		a, err := c.dec.Ack(h.Type, body)
		if err != nil {
			return err
		}
		if h.Type == packet.PUBREL {
			place := c.link.out.reserve()
			c.session.release(&c.link, a, func(a packet.Ack, err error) { c.link.answered(place, a, err) })
			return nil
		}
		return c.session.acknowledge(&c.link, a, c.link.released)
	case packet.SUBSCRIBE:
		return c.subscribe(body)
	case packet.UNSUBSCRIBE:
		p, err := c.dec.Unsubscribe(body)
		if err != nil {
			return err
		}
		if err := answerable(&c.link, packet.UNSUBACK, len(p.Filters)); err != nil {
			return err
		}
		if err := request(c, len(p.Filters)); err != nil {
			return err
		}
		for i, f := range p.Filters {
			p.Filters[i] = c.link.mount.filter(f)
		}
		place := c.link.out.reserve()
		c.srv.handleUnsubscribe(c.session, &p, func(work int) { restWithin(c, work) }, func(a packet.Suback, err error) { c.link.concluded(place, &a, err) })
		return nil
	case packet.PINGREQ:
		if err := request(c, 1); err != nil {
			return err
		}
		c.link.out.send(&packet.Ping{Type: packet.PINGRESP})
		return nil
	case packet.DISCONNECT:
		return c.disconnect(body)
	case packet.AUTH:
		if err := request(c, 1); err != nil {
			return err
		}
		return c.exchange.again(body)
	case packet.CONNECT:
		return &packet.Error{Clause: "MQTT-3.1.0-2", Reason: packet.ProtocolError, Text: "a second CONNECT"}
	default:
		return &packet.Error{Clause: "4.13.1", Reason: packet.ProtocolError, Text: h.Type.String() + " is not for a client to send"}
	}
}

// publish handles a PUBLISH.
func (c *conn) publish(h packet.Header, body []byte) (err error) {
	if c.r == nil {
		c.r = newRouting(c.session, &c.link) // most clients only listen
		c.r.rest = func(work int) { restWithin(c, work) }
	}
	p := &c.r.received
	if *p, err = c.dec.Publish(h.Flags, body); err != nil {
		return err
	}
	if x := p.Properties; x != nil && x.TopicAlias != 0 {
		if err := c.aliases.resolve(p); err != nil {
			return err
		}
	}
	if x := p.Properties; x != nil && len(x.SubscriptionIDs) > 0 {
		return &packet.Error{Clause: "MQTT-3.3.4-6", Reason: packet.ProtocolError, Text: "a subscription identifier from a client"}
	}
	c.srv.stats.Received.Add(1)
	c.srv.stats.PayloadReceived.Add(int64(len(p.Payload)))
	refused := c.link.mount.receive(&c.srv.limits, &p.Topic, p.Properties)
	if e, ok := errors.AsType[*packet.Error](refused); ok && e.Reason == packet.TopicNameInvalid {
		return e
	}
	if refused == nil {
		refused = c.r.deny(c.access)
	}
	if refused != nil && c.listener.EndDenied {
		return refused
	}
	if p.QoS == 0 {
		if refused == nil {
			route(c, p, retained(&c.link.out, p.Retain))
		} else {
			c.srv.stats.Dropped.Add(1)
		}
		return nil
	}
	if n := c.link.incoming.Add(1); c.dec.Version == packet.V5 && n > int32(c.listener.Bounds.ReceiveMaximum) {
		return &packet.Error{Clause: "MQTT-3.3.4-9", Reason: packet.ReceiveMaximumExceeded, Text: fmt.Sprintf("more than %d messages without acknowledgement", c.listener.Bounds.ReceiveMaximum), Limit: "receive_maximum"}
	}
	place, a := c.link.out.reserve(), packet.Ack{Type: packet.PUBACK, ID: p.ID}
	if p.QoS == 2 {
		a.Type = packet.PUBREC
	}
	if refused != nil {
		a.Reason, a.ReasonString = packet.NotAuthorized, refused.Error()
		if c.dec.Version < packet.V5 {
			a.Reason = packet.Success // it has no other answer [MQTT-3.3.5-2]
		}
		c.srv.stats.Dropped.Add(1)
		c.link.acknowledged(place, a)
		return nil
	}
	if p.QoS == 2 && !interrupt(&c.link) { // the store may have to wait, and must have it before its repetition is answered
		return net.ErrClosed
	}
	route(c, p, func(reason packet.ReasonCode) {
		a.Reason = reason
		c.link.acknowledged(place, a)
	})
	return nil
}

// route passes a message on. One that has come alone is written to its subscribers at once; of many
// the packets are collected until somebody has written those before.
func route(c *conn, p *packet.Publish, done func(packet.ReasonCode)) {
	c.r.begin(p)
	if c.in.more() {
		c.srv.publish(c.r, done)
		return
	}
	var own *out
	if done != nil {
		own = &c.link.out
	}
	c.r.round.begin(own)
	c.srv.publish(c.r, done)
	c.r.round.end()
}

// breathe waits while there is too much that the client has to be answered, or that the disk has to take
// from it: one that sends without end is slowed down by not being read.
func (c *conn) breathe() {
	if !c.link.out.laden() {
		return
	}
	for less := lessened(&c.link.out); c.link.out.laden(); {
		select {
		case <-less:
		case <-c.srv.ctx.Done():
			return
		}
	}
}

// awaitEnd waits until a connection may end that has a cause to.
func awaitEnd(ctx context.Context, l *link) {
	for less := lessened(&l.out); !ends(&l.out); {
		select {
		case <-less:
		case <-ctx.Done():
			return
		}
	}
}

// subscribe handles a SUBSCRIBE.
func (c *conn) subscribe(body []byte) error {
	p, err := c.dec.Subscribe(body)
	if err != nil {
		return err
	}
	if err := answerable(&c.link, packet.SUBACK, len(p.Filters)); err != nil {
		return err
	}
	if err := request(c, len(p.Filters)); err != nil {
		return err
	}
	for i := range p.Filters {
		f := &p.Filters[i]
		f.Filter = c.link.mount.filter(f.Filter)
	}
	if c.bridge {
		// A bridge needs the flag to keep the other side's retained messages the same, and must not
		// get back what it brings.
		for i := range p.Filters {
			f := &p.Filters[i]
			f.RetainAsPublished, f.NoLocal = true, !isShared(f.Filter)
		}
	}
	denied := c.access.subscribe(&p)
	if c.listener.EndDenied && denied.first != "" {
		return &packet.Error{Clause: "5.4.2", Reason: packet.NotAuthorized, Text: denied.first}
	}
	place := c.link.out.reserve()
	pause := pauses{
		wait: func() bool { return c.link.await(c.srv.ctx, c.session) },
		rest: func(work int) { restWithin(c, work) },
	}
	c.srv.handleSubscribe(c.session, &p, denied, pause, func(a packet.Suback) { c.link.concluded(place, &a, nil) })
	return nil
}

// disconnect handles a DISCONNECT.
func (c *conn) disconnect(body []byte) error {
	p, err := c.dec.Disconnect(body)
	if err != nil {
		return err
	}
	if p.ServerReference != "" {
		return &packet.Error{Clause: "3.14.2.2.5", Reason: packet.ProtocolError, Text: "a server reference from a client"}
	}
	if p.HasSessionExpiry {
		if err := c.srv.registry.expire(c.session, &c.link, c.srv.limits.capExpiry(p.SessionExpiry)); err != nil {
			return err
		}
	}
	c.goodbye = p.Reason == packet.Success // any other code leaves the will [MQTT-3.1.2-8], [MQTT-3.14.4-3]
	return errGone
}

// close ends the connection for the reason err, and leaves the session.
func (c *conn) close(err error) {
	e, _ := errors.AsType[*packet.Error](err)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		e = &packet.Error{Clause: "MQTT-3.1.2-22", Reason: packet.KeepAliveTimeout, Text: "nothing came for 1.5 times the keep alive"}
		if c.session == nil {
			e = &packet.Error{Clause: "MQTT-3.1.4-1", Reason: packet.ProtocolError, Text: "no CONNECT in time", Limit: "connect_timeout"}
		}
	}
	if broken := failure(&c.link.out); broken != nil && errors.Is(err, net.ErrClosed) {
		err = broken
	}
	if cause := c.link.cause.Load(); cause != nil {
		e = cause
	}
	if e != nil {
		err = e
		c.srv.stats.Limits.add(e.Limit)
	}
	switch {
	case c.session == nil && e == nil && errors.Is(err, io.EOF):
		// Something looked whether the port is open: no client was refused.
		c.srv.log.Debug("connection ended before CONNECT", "listener", c.listener.Name, "from", c.nc.RemoteAddr(), "reason", err)
	case c.session == nil:
		c.srv.stats.Refused.Add(1)
		if untold, due := c.srv.unconnected.due(); due {
			c.srv.log.Info("connection refused", "listener", c.listener.Name, "from", c.nc.RemoteAddr(), "reason", why(err), "others_before", untold)
		}
	default:
		// A client that sees the connection end finds its session as it is after that.
		if !c.goodbye {
			c.srv.registry.vet(c.session)
		}
		c.srv.registry.detach(c.session, &c.link, c.goodbye)
		c.srv.log.Info("client disconnected", "client", c.session.id, "from", c.nc.RemoteAddr(), "reason", why(err))
	}
	if e != nil {
		c.link.end(e)
	} else {
		c.link.out.end(nil)
	}
}

// why says for people how a connection ended.
func why(err error) string {
	switch {
	case err == nil, errors.Is(err, errGone):
		return "it said DISCONNECT"
	case errors.Is(err, io.EOF):
		return "it closed the connection without DISCONNECT"
	case errors.Is(err, net.ErrClosed), errors.Is(err, context.Canceled):
		return "the gateway closed the connection"
	}
	return err.Error()
}
