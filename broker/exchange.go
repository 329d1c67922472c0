package broker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"gateway/broker/auth"
	"gateway/broker/packet"
)

// An exchange is enhanced authentication on one connection (5.0, 4.12): the one with which it
// begins, and those by which the client shows later that it is still who it was. Only the reader
// of the connection uses it, and only this reader waits for a mechanism.
type exchange struct {
	c         *conn
	mechanism auth.Mechanism
	attempt   auth.Attempt // without the password

	running auth.Exchange // nil: none
	rounds  int           // messages that running has got
	end     time.Time     // until when it has to be done
	late    *time.Timer   // to the end of a re-authentication; nil: none
	entered bool          // the door waits to be told what became of it
}

// newExchange returns the exchange that a CONNECT asks for, nil if it asks for none.
func newExchange(c *conn, p *packet.Connect) (*exchange, error) {
	if !p.Properties.HasAuthMethod {
		return nil, nil
	}
	i := slices.IndexFunc(c.listener.Mechanisms, func(m auth.Mechanism) bool { return m.Name() == p.Properties.AuthMethod })
	if i < 0 {
		return nil, &packet.Error{Clause: "MQTT-4.12.0-1", Reason: packet.BadAuthenticationMethod, Text: "no such authentication method here"}
	}
	return &exchange{c: c, mechanism: c.listener.Mechanisms[i]}, nil
}

// claim returns the user that a client says to be in its first message, if that can be told.
func (x *exchange) claim(data []byte) string {
	if m, ok := x.mechanism.(auth.Claimant); ok && len(data) <= x.c.srv.limits.AuthBytes {
		return m.Claim(data)
	}
	return ""
}

// connect authenticates the client of a CONNECT: no other packet than AUTH and DISCONNECT is taken
// until that is done. The step has what is to be sent in the CONNACK.
func (x *exchange) connect(a auth.Attempt, p *packet.Connect) (auth.Step, error) {
	x.begin(a)
	x.attempt.Password = nil
	_ = x.c.nc.SetReadDeadline(x.end)
	for data := p.Properties.AuthData; ; {
		step, err := x.next(data)
		if _, ours := err.(*packet.Error); err != nil && !ours {
			err = refused(x.c, p, err)
		}
		if step.Done || err != nil {
			return step, err
		}
		if err := x.send(packet.ContinueAuthentication, step.Data); err != nil {
			return auth.Step{}, err
		}
		if data, err = x.answer(); err != nil {
			return auth.Step{}, err
		}
	}
}

// begin begins an exchange.
func (x *exchange) begin(a auth.Attempt) {
	x.attempt = a
	x.running, x.rounds = x.mechanism.Start(a), 0
	x.end = time.Now().Add(x.c.srv.limits.AuthTime)
}

// next gives the mechanism the client's next message.
func (x *exchange) next(data []byte) (auth.Step, error) {
	l := &x.c.srv.limits
	if x.rounds++; x.rounds > l.AuthRounds {
		return auth.Step{}, &packet.Error{Clause: "4.12", Reason: packet.QuotaExceeded, Text: fmt.Sprintf("more than %d messages to authenticate: limits.auth_rounds", l.AuthRounds), Limit: "auth_rounds"}
	}
	if len(data) > l.AuthBytes {
		return auth.Step{}, &packet.Error{Clause: "4.12", Reason: packet.QuotaExceeded, Text: fmt.Sprintf("authentication data of %d bytes: limits.auth_data_size is %d", len(data), l.AuthBytes), Limit: "auth_data_size"}
	}
	ctx, cancel := context.WithDeadline(x.c.srv.ctx, x.end)
	defer cancel()
	step, err := x.running.Next(ctx, data)
	if err != nil {
		return auth.Step{}, err
	}
	if step.Done {
		x.running = nil
	}
	return step, nil
}

// send sends an AUTH, if it is one that the client takes [MQTT-3.1.2-24].
func (x *exchange) send(reason packet.ReasonCode, data []byte) error {
	p := &packet.Auth{Reason: reason, Method: x.mechanism.Name(), Data: data}
	if !x.c.link.takes(p) {
		return errMethodSize
	}
	x.c.link.send(p)
	return nil
}

// errMethodSize is why a client cannot use a method.
var errMethodSize = &packet.Error{Clause: "MQTT-3.1.2-24", Reason: packet.PacketTooLarge, Text: "the client takes no packets as large as this method needs"}

// answer waits for the client's AUTH.
func (x *exchange) answer() ([]byte, error) {
	h, body, err := x.c.read()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, errAuthTime
	case err != nil:
		return nil, err
	case h.Type == packet.DISCONNECT:
		return nil, errGone
	case h.Type != packet.AUTH:
		return nil, &packet.Error{Clause: "MQTT-3.1.2-30", Reason: packet.ProtocolError, Text: h.Type.String() + " before CONNACK, where only AUTH and DISCONNECT may stand"}
	}
	p, err := x.c.dec.Auth(body)
	if err != nil {
		return nil, err
	}
	if p.Reason != packet.ContinueAuthentication {
		return nil, &packet.Error{Clause: "MQTT-4.12.0-3", Reason: packet.ProtocolError, Text: "AUTH before CONNACK has the reason code " + p.Reason.String()}
	}
	return p.Data, x.checkMethod(&p, "MQTT-4.12.0-5")
}

// errAuthTime is why an exchange ends that takes too long.
var errAuthTime = &packet.Error{Clause: "4.12", Reason: packet.NotAuthorized, Text: "authentication took longer than limits.auth_timeout allows", Limit: "auth_timeout"}

// checkMethod refuses another method than that of the CONNECT.
func (x *exchange) checkMethod(p *packet.Auth, clause string) error {
	if p.Method != x.mechanism.Name() {
		return &packet.Error{Clause: clause, Reason: packet.ProtocolError, Text: "AUTH with another method than the CONNECT"}
	}
	return nil
}

// again takes an AUTH in a session: the beginning of a re-authentication or its next message (5.0,
// 4.12.1). Everything else goes on meanwhile.
func (x *exchange) again(body []byte) error {
	if x == nil {
		return &packet.Error{Clause: "MQTT-4.12.0-7", Reason: packet.ProtocolError, Text: "AUTH from a client whose CONNECT had no authentication method"}
	}
	p, err := x.c.dec.Auth(body)
	if err != nil {
		return err
	}
	if err := x.checkMethod(&p, "MQTT-4.12.1-1"); err != nil {
		return err
	}
	switch begins := p.Reason == packet.Reauthenticate; {
	case p.Reason == packet.Success:
		return &packet.Error{Clause: "3.15.2.1", Reason: packet.ProtocolError, Text: "AUTH with Success is for a server to send"}
	case begins == (x.running != nil):
		return &packet.Error{Clause: "4.12.1", Reason: packet.ProtocolError, Text: "AUTH with " + p.Reason.String() + " does not belong here"}
	case begins:
		if err := x.c.srv.door.Enter(&x.attempt); err != nil {
			turned(&x.c.srv.stats, err)
			return x.failed(err)
		}
		x.entered = true
		x.begin(x.attempt)
		x.late = time.AfterFunc(time.Until(x.end), func() { x.c.link.fail(errAuthTime) })
	}
	revoked := x.c.srv.gate.revocations()
	step, err := x.next(p.Data)
	if err == nil && step.Done {
		x.late.Stop()
		err = x.replace(step.Identity, revoked)
	}
	if err != nil {
		return x.failed(err)
	}
	if step.Done {
		x.c.srv.log.Debug("client authenticated again", "client", x.c.session.id, "user", x.c.client.User)
		return x.send(packet.Success, step.Data)
	}
	return x.send(packet.ContinueAuthentication, step.Data)
}

// replace puts what the client has shown now in the place of what it showed before. It stays the
// same user: subscriptions and queues are his.
func (x *exchange) replace(id auth.Identity, revoked int) error {
	c := x.c
	if id.User != c.client.User || id.ClientID != "" && id.ClientID != c.client.ID {
		return fmt.Errorf("user %q authenticates as another one, %q", c.client.User, id.User)
	}
	who := *c.client
	id.Expires = expires(id, who.Certificate)
	who.Identity = id
	if !c.srv.gate.identified(c, &who, revoked) {
		return errMeanwhile
	}
	if err := x.met(&who, false); err != nil {
		return err
	}
	c.access = newAccess(c.srv, &who, c.listener.Rules)
	c.session.mu.Lock()
	here := c.session.peer == &c.link // no other connection has taken it over
	if here {
		adopt(c.session, c.access)
		c.session.rights.below = math.MaxUint64 // until withdraw has seen to it
	}
	c.session.mu.Unlock()
	if here {
		renew(c.session)
		withdraw(c.srv, c.session, c.access)
	}
	if c.expiry != nil {
		c.expiry.Stop()
		c.expiry = nil
	}
	if !id.Expires.IsZero() {
		c.expiry = expireAt(&c.link, id.Expires, c.srv.now)
	}
	return nil
}

// errMeanwhile is why an authentication counts for nothing during which something was revoked.
var errMeanwhile = fmt.Errorf("something was revoked meanwhile: %w", auth.ErrUnavailable)

// met tells the door what became of a re-authentication.
func (x *exchange) met(who *auth.Client, wrong bool) error {
	if !x.entered {
		return nil
	}
	x.entered = false
	return x.c.srv.door.Met(&x.attempt, who, wrong)
}

// failed returns how the connection ends whose client could not authenticate again.
func (x *exchange) failed(err error) error {
	if e, ok := err.(*packet.Error); ok {
		return e
	}
	if x.entered && (errors.Is(err, auth.ErrBadCredentials) || refusal(err).Reason == packet.NotAuthorized) {
		x.c.srv.stats.BadLogin.Add(1)
		_ = x.met(nil, true) // it is turned away already
	}
	if untold, due := x.c.srv.unauthorized.due(); due {
		x.c.srv.log.Warn("not authorized again", "client", x.c.client.ID, "user", x.c.client.User, "listener", x.c.listener.Name, "from", x.c.nc.RemoteAddr(), "reason", err, "others_before", untold)
	}
	return &packet.Error{Clause: "MQTT-4.12.1-2", Reason: packet.NotAuthorized, Text: notAuthorized}
}

// stop ends what is left of a re-authentication with its connection.
func (x *exchange) stop() {
	if x == nil || x.late == nil {
		return
	}
	x.late.Stop()
	_ = x.met(nil, false) // nobody has decided
}
