package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"gateway/broker/listen"
	"gateway/broker/packet"
)

// Options are the settings of a connection. The zero value is a clean MQTT 3.1.1 connection
// without keep alive.
type Options struct {
	ClientID  string
	Version   packet.Version // 0: V311
	KeepAlive uint16         // seconds between signs of life; 0: none

	// KeepSession asks the server to resume the session; otherwise it begins a new one.
	KeepSession   bool
	SessionExpiry uint32 // seconds that the session outlives the connection; 5.0 only

	Username, Password string
	Prover             Prover      // shows who the client is by a method of its own; nil: none. 5.0 only, for one connection
	TLS                *tls.Config // for mqtts and wss; nil: the system's roots. The server name is filled in
	Will               *packet.Will

	// Session holds what outlives the connection. nil: nothing does, and deliveries that are
	// open when the connection ends fail with its error.
	Session *Session
	// Window is the number of unacknowledged QoS 1 and 2 messages, 1 to 65,000; 0: 100. The
	// server's receive maximum lowers it.
	Window int
	// ReceiveMaximum is how many unacknowledged messages the server may send; 0: 65,535. 5.0 only.
	ReceiveMaximum uint16

	// Receive takes the messages, one at a time, in order; nil drops them. The message is
	// acknowledged when it returns, and nothing is read meanwhile, so it must not wait for
	// other work of the same Client. A QoS 2 message comes once. The payload is valid until
	// Receive returns.
	Receive func(packet.Publish)
}

// defaultWindow is a compromise: a server that syncs in groups wants many, a retry wants few.
const defaultWindow = 100

// Dial connects to a server: mqtt://HOST[:1883], mqtts://HOST[:8883], ws://HOST[:8083][/mqtt],
// wss://HOST[:8084][/mqtt], or unix:///PATH of a socket. A user name and password in the URL apply
// where the options have none. ctx bounds the time until CONNACK.
func Dial(ctx context.Context, address string, o Options) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	if u.User != nil && o.Username == "" {
		o.Username = u.User.Username()
		o.Password, _ = u.User.Password()
	}
	conn, err := listen.Dial(ctx, address, o.TLS)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return New(ctx, conn, o)
}

// New connects over an existing network connection and owns it from then on, also when it
// returns an error. ctx bounds the handshake only.
func New(ctx context.Context, conn net.Conn, o Options) (*Client, error) {
	if o.Version == 0 {
		o.Version = packet.V311
	}
	if o.Prover != nil && o.Version != packet.V5 {
		return nil, errors.Join(errors.New("connect: authentication methods are of MQTT 5.0"), conn.Close())
	}
	s := o.Session
	if s == nil {
		s = NewSession()
	}
	l := &link{
		conn: conn, version: o.Version,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), mu: &s.mu,
	}
	if err := s.attach(l); err != nil {
		return nil, errors.Join(fmt.Errorf("connect: %w", err), conn.Close())
	}
	r := &reader{in: bufio.NewReaderSize(l, readBuffer), decoder: packet.Decoder{Version: o.Version}}
	connack, err := shakeHands(ctx, l, r, &o)
	if err != nil {
		s.detach()
		_ = conn.Close() // err tells more
		return nil, err
	}
	c := &Client{
		l: l, s: s, private: o.Session == nil, connack: connack, done: make(chan struct{}),
	}
	c.begin(r, &o)
	return c, nil
}

// begin takes over the limits of CONNACK, sends again what the session has not finished, and
// starts the two goroutines.
func (c *Client) begin(r *reader, o *Options) {
	c.l.keepAlive = time.Duration(o.KeepAlive) * time.Second
	window := o.Window
	if window == 0 {
		window = defaultWindow
	}
	if p := c.connack.Properties; p != nil {
		if p.ReceiveMaximum > 0 {
			window = min(window, int(p.ReceiveMaximum))
		}
		if p.HasServerKeepAlive {
			c.l.keepAlive = time.Duration(p.ServerKeepAlive) * time.Second
		}
	}
	if !c.connack.SessionPresent {
		c.s.discard(ErrSessionLost)
	}
	c.s.resume(window)

	var writer sync.WaitGroup
	writer.Go(c.l.write)
	go func() {
		(&receiver{c.l, c.s, o.Receive}).run(r)
		writer.Wait()
		if c.private {
			c.s.discard(c.Err())
		}
		c.s.detach()
		close(c.done)
	}()
}

// shakeHands sends CONNECT and returns the CONNACK.
func shakeHands(ctx context.Context, l *link, r *reader, o *Options) (packet.Connack, error) {
	interrupt := context.AfterFunc(ctx, func() { _ = l.conn.SetDeadline(time.Unix(1, 0)) })
	ack, err := exchange(l, r, o)
	if !interrupt() {
		return ack, fmt.Errorf("connect: no answer: %w", ctx.Err())
	}
	if err != nil {
		return ack, fmt.Errorf("connect: %w", err)
	}
	if ack.Reason != packet.Success {
		e := &Error{Op: "connect", Reason: ack.Reason}
		if ack.Properties != nil {
			e.Text = ack.Properties.ReasonString
		}
		return ack, e
	}
	return ack, nil
}

// exchange sends CONNECT and goes through the authentication, if there is one, up to CONNACK.
func exchange(l *link, r *reader, o *Options) (packet.Connack, error) {
	c := o.connect()
	var p *proof
	if o.Prover != nil {
		data, err := o.Prover.Next(nil)
		if err != nil {
			return packet.Connack{}, err
		}
		p = &proof{Prover: o.Prover}
		c.Properties.HasAuthMethod, c.Properties.AuthMethod, c.Properties.AuthData = true, p.Method(), data
	}
	if _, err := l.conn.Write(c.Append(nil, o.Version)); err != nil {
		return packet.Connack{}, err
	}
	for {
		h, body, err := r.next()
		if err != nil {
			return packet.Connack{}, err
		}
		if h.Type == packet.AUTH && p != nil {
			if err := l.answer(p, &r.decoder, body); err != nil {
				return packet.Connack{}, err
			}
			continue
		}
		if h.Type != packet.CONNACK {
			return packet.Connack{}, fmt.Errorf("the server answers with %v, not CONNACK [MQTT-3.2.0-1]", h.Type)
		}
		ack, err := r.decoder.Connack(body)
		if err == nil && p != nil && ack.Reason == packet.Success {
			x := ack.Properties
			if x == nil {
				x = new(packet.ConnackProperties)
			}
			err = p.conclude(x.AuthMethod, x.AuthData)
		}
		return ack, err
	}
}

// answer answers an AUTH before CONNACK.
func (l *link) answer(p *proof, d *packet.Decoder, body []byte) error {
	a, err := d.Auth(body)
	if err != nil {
		return err
	}
	next, err := p.answer(a)
	if err != nil {
		return err
	}
	_, err = l.conn.Write(next.Append(nil, l.version))
	return err
}

func (o *Options) connect() *packet.Connect {
	p := &packet.Connect{
		Version: o.Version, CleanStart: !o.KeepSession, KeepAlive: o.KeepAlive, ClientID: o.ClientID,
		Will: o.Will, Username: o.Username, Password: []byte(o.Password),
		HasUsername: o.Username != "", HasPassword: o.Password != "",
	}
	if o.Version == packet.V5 {
		p.Properties = packet.ConnectProperties{
			SessionExpiry: o.SessionExpiry, HasSessionExpiry: o.SessionExpiry > 0,
			ReceiveMaximum: o.ReceiveMaximum,
		}
	}
	return p
}
