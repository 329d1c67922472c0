package broker

import (
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"time"

	"gateway/broker/auth"
	"gateway/broker/packet"
)

// identify finds out who the client is, as the listener demands. From then on the connection can be
// found by Disconnect: if one was called meanwhile, what was found out may not be so any more, and
// the client is asked about again.
func (c *conn) identify(p *packet.Connect, props *packet.ConnackProperties) error {
	a := attemptOf(c, p)
	if props.AssignedClientID != "" {
		a.ClientID = ""
	}
	for {
		revoked := c.srv.gate.revocations()
		if err := c.srv.door.Enter(&a); err != nil {
			return turnedAway(c, p, err)
		}
		who, wrong, err := authenticate(c, a, p, props)
		if wrong {
			c.srv.stats.BadLogin.Add(1)
		}
		if kept := c.srv.door.Met(&a, who, wrong); kept != nil && err == nil {
			return turnedAway(c, p, kept)
		}
		if err != nil {
			return err
		}
		switch {
		case c.srv.gate.identified(c, who, revoked):
			c.access = newAccess(c.srv, who, c.listener.Rules)
			return nil
		case c.exchange != nil:
			return refused(c, p, errMeanwhile)
		}
	}
}

// authenticate finds out who shows this. Wrong says that it is refused for what it shows.
func authenticate(c *conn, a auth.Attempt, p *packet.Connect, props *packet.ConnackProperties) (who *auth.Client, wrong bool, err error) {
	var step auth.Step
	if c.exchange != nil {
		step, err = c.exchange.connect(a, p)
		props.HasAuthMethod, props.AuthMethod, props.AuthData = true, p.Properties.AuthMethod, step.Data
	} else if step.Identity, err = c.listener.Auth.Authenticate(c.srv.ctx, a); err != nil {
		wrong = errors.Is(err, auth.ErrBadCredentials)
		err = refused(c, p, err)
	}
	if err != nil {
		e, ok := errors.AsType[*packet.Error](err)
		return nil, wrong || ok && e.Reason == packet.NotAuthorized, err
	}
	id := step.Identity
	if id.ClientID != "" {
		if err := c.srv.limits.checkClientID(id.ClientID); err != nil {
			return nil, false, err
		}
		p.ClientID, props.AssignedClientID = id.ClientID, ""
	}
	if c.exchange != nil && !c.link.takes(&packet.Connack{Properties: props}) {
		return nil, false, errMethodSize
	}
	id.Expires = expires(id, a.Certificate)
	who = &auth.Client{Identity: id, ID: p.ClientID, Listener: c.listener.Name, Addr: addrOf(a.Addr), Certificate: a.Certificate}
	return who, false, nil
}

// expires returns when a login does: no later than the certificate that came with it.
func expires(id auth.Identity, certificate *x509.Certificate) time.Time {
	if certificate == nil || !id.Expires.IsZero() && id.Expires.Before(certificate.NotAfter) {
		return id.Expires
	}
	return certificate.NotAfter
}

// refused logs why a client may not come in, and returns what it is told.
func refused(c *conn, p *packet.Connect, err error) error {
	if untold, due := c.srv.unauthorized.due(); due {
		c.srv.log.Warn("not authorized", "client", p.ClientID, "user", p.Username, "listener", c.listener.Name, "from", c.nc.RemoteAddr(), "reason", err, "others_before", untold)
	}
	e := refusal(err)
	if c.exchange != nil && e.Reason == packet.BadUserNameOrPassword {
		e.Reason, e.Text = packet.NotAuthorized, notAuthorized // a method may have neither
	}
	return e
}

// attemptOf returns what a client has shown.
func attemptOf(c *conn, p *packet.Connect) auth.Attempt {
	if c.exchange != nil && p.Username == "" {
		p.Username = c.exchange.claim(p.Properties.AuthData)
	}
	a := auth.Attempt{ClientID: p.ClientID, Username: p.Username, Password: p.Password, Addr: c.nc.RemoteAddr(), Listener: c.listener.Name}
	a.Aside = func() (func(), bool) { return c.srv.gate.aside(c) }
	if t, ok := c.nc.(securer); ok {
		if certs := t.ConnectionState().PeerCertificates; len(certs) > 0 {
			a.Certificate = certs[0]
		}
	}
	return a
}

// notAuthorized is what a client is told whom no other reason fits.
const notAuthorized = "not authorized"

// refusal returns what a client is told that may not come in because of err.
func refusal(err error) *packet.Error {
	e := &packet.Error{Clause: "3.1.4", Reason: packet.NotAuthorized, Text: notAuthorized}
	switch {
	case errors.Is(err, auth.ErrUnavailable):
		e.Reason, e.Text = packet.ServerUnavailable, auth.ErrUnavailable.Error()
	case errors.Is(err, auth.ErrBadCredentials):
		e.Reason, e.Text = packet.BadUserNameOrPassword, auth.ErrBadCredentials.Error()
	case errors.Is(err, auth.ErrBanned):
		e.Reason, e.Text = packet.Banned, auth.ErrBanned.Error()
	case errors.Is(err, auth.ErrTooOften):
		e.Reason, e.Text = packet.ConnectionRateExceeded, "too many attempts, try again later"
	}
	return e
}

// expireEvery is how often the time is looked at until a login expires: a board without a battery learns
// of it long after its start.
const expireEvery = 10 * time.Minute

// expireAt ends a client's connection when it is a certain time of day, or soon after it has become known that
// it is.
func expireAt(l *link, at time.Time, now func() time.Time) *time.Timer {
	left := func() time.Duration { return max(min(at.Sub(now()), expireEvery), 0) }
	var timer *time.Timer
	timer = time.AfterFunc(expireEvery, func() {
		switch wait := left(); {
		case ends(&l.out):
		case wait > 0:
			timer.Reset(wait)
		default:
			l.fail(&packet.Error{Clause: "3.14.2.1", Reason: packet.MaximumConnectTime, Text: "what the client logged in with has expired"})
		}
	})
	timer.Reset(left())
	return timer
}

// Disconnect ends the connections of the clients that match, with the reason for 5.0, and returns
// how many. Their sessions stay. It is for what is revoked: a client that is about to be let in with
// what was valid before is authenticated once more. match is called with a lock held, and must not
// change the client.
func (s *Server) Disconnect(match func(*auth.Client) bool, reason packet.ReasonCode) int {
	matching := s.gate.revoke(match)
	for _, c := range matching {
		c.link.kick(reason)
	}
	return len(matching)
}

// addrOf returns the IP address of a connection, if it has one.
func addrOf(a net.Addr) netip.Addr {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return auth.Address(tcp.AddrPort().Addr())
}
