package broker

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"gateway/broker/packet"
)

// connect handles the CONNECT: who it is, which session it gets, what it is told.
func (c *conn) connect(p *packet.Connect) error {
	v5 := p.Version == packet.V5
	c.link.maxPacket = int(min(p.Properties.MaximumPacketSize, packet.MaxLength))
	c.link.explains = v5 && !p.Properties.NoProblemInfo
	props := packet.ConnackProperties{
		ReceiveMaximum:    c.listener.Bounds.ReceiveMaximum,
		MaximumPacketSize: uint32(c.listener.Bounds.PacketSize),
		TopicAliasMaximum: c.srv.limits.TopicAliases,
	}
	if v := c.listener.Versions; v != nil && !slices.Contains(v, p.Version) {
		return c.refuse(&packet.Error{Clause: "MQTT-3.1.2-2", Reason: packet.UnsupportedProtocolVersion, Text: "MQTT " + versionName(p.Version) + " is not spoken here"})
	}
	if another := c.srv.another; another != "" {
		return c.refuse(&packet.Error{Clause: "4.11", Reason: packet.UseAnotherServer, Text: "this gateway takes no clients now, use " + another})
	}
	var err error
	if c.exchange, err = newExchange(c, p); err != nil {
		return c.refuse(err)
	}
	if p.ClientID == "" {
		switch {
		case p.Version == packet.V31:
			return c.refuse(&packet.Error{Clause: "3.1 3.1", Reason: packet.ClientIDNotValid, Text: "an empty client identifier"})
		case !v5 && !p.CleanStart:
			return c.refuse(&packet.Error{Clause: "3.1.1 MQTT-3.1.3-8", Reason: packet.ClientIDNotValid, Text: "an empty client identifier asks for a clean session"})
		}
		p.ClientID = "auto-" + rand.Text()
		props.AssignedClientID = p.ClientID
	}
	if err := c.srv.limits.checkClientID(p.ClientID); err != nil {
		return c.refuse(err)
	}
	if err := c.srv.limits.checkWill(p.Will); err != nil {
		return c.refuse(err)
	}
	if w := p.Will; w != nil {
		if err := c.link.mount.receive(&c.srv.limits, &w.Topic, w.Properties); err != nil {
			return c.refuse(err)
		}
	}
	if err := c.identify(p, &props); err != nil {
		return c.refuse(err)
	}
	if p.Properties.RequestResponse {
		props.ResponseInformation = "response/" + p.ClientID
	}
	if why := c.access.will(p.Will); why != "" {
		return c.refuse(&packet.Error{Clause: "5.4.2", Reason: packet.NotAuthorized, Text: "the will: " + why})
	}
	keepAlive := time.Duration(p.KeepAlive) * time.Second
	if m := c.listener.Bounds.KeepAlive; v5 && m > 0 && (keepAlive == 0 || keepAlive > m) {
		keepAlive = m
		props.HasServerKeepAlive, props.ServerKeepAlive = true, uint16(m/time.Second)
	}
	c.silence.most = keepAlive * 3 / 2
	expiry := c.srv.limits.capExpiry(expiryOf(p))
	if expiry != expiryOf(p) {
		props.HasSessionExpiry, props.SessionExpiry = true, expiry
	}
	c.aliases.max, c.aliases.most = c.srv.limits.TopicAliases, int32(c.srv.limits.AliasBytes)
	c.link.aliases.most = int32(c.srv.limits.AliasBytes)
	c.link.aliases.max = min(p.Properties.TopicAliasMaximum, c.srv.limits.TopicAliases)
	c.bridge = p.Bridge

	if c.srv.memory.scarce.Load() {
		return c.refuse(errScarce("no more clients"))
	}
	if err := fit(&c.link, &props); err != nil {
		return c.refuse(err) // before anything happens to its session
	}
	a := arrival{
		peer: &c.link, access: c.access, id: c.link.mount.id(p.ClientID), cleanStart: p.CleanStart,
		expiry: expiry, window: c.window(p), will: p.Will, version: p.Version,
	}
	n, present, err := c.srv.registry.attach(a)
	if errors.Is(err, errUnstored) {
		// Local control goes on without the disk: the client gets a session that ends with its connection.
		a.expiry, a.stopgap = 0, true
		props.HasSessionExpiry, props.SessionExpiry = true, 0
		if err := fit(&c.link, &props); err != nil {
			return c.refuse(err)
		}
		n, present, err = c.srv.registry.attach(a)
	}
	if err != nil {
		e, ok := errors.AsType[*packet.Error](err)
		switch {
		case errors.Is(err, errTaken):
			e = taken(c, a.id)
		case !ok:
			e = &packet.Error{Clause: "3.1.4", Reason: packet.ServerUnavailable, Text: err.Error()}
		}
		return c.refuse(e)
	}
	c.session = n
	if present {
		withdraw(c.srv, n, c.access)
	}
	c.srv.gate.know(c)
	if at := c.client.Expires; !at.IsZero() {
		c.expiry = expireAt(&c.link, at, c.srv.now)
	}
	c.srv.log.Info("client connected", "client", n.id, "listener", c.listener.Name, "from", c.nc.RemoteAddr(),
		"version", versionName(p.Version), "user", c.client.User, "resumed", present)
	c.link.send(&packet.Connack{SessionPresent: present, Properties: &props})
	c.link.begun.Store(true)
	n.resume()
	return nil
}

// checkClientID decides about a client identifier, the client's own or one of its identity.
func (l *Limits) checkClientID(id string) error {
	if most := l.ClientIDBytes; len(id) > most {
		return &packet.Error{Clause: "3.1.3.1", Reason: packet.ClientIDNotValid, Text: fmt.Sprintf("a client identifier of %d bytes: limits.client_id_size is %d", len(id), most), Limit: "client_id_size"}
	}
	if id[0] == '$' {
		return &packet.Error{Clause: "3.1.3.1", Reason: packet.ClientIDNotValid, Text: "client identifiers that begin with $ are the gateway's own"}
	}
	return nil
}

// checkWill decides about the will that a client leaves with the server.
func (l *Limits) checkWill(w *packet.Will) error {
	if w == nil {
		return nil
	}
	p := packet.Publish{Topic: w.Topic, Payload: w.Payload, QoS: w.QoS, Properties: w.Properties}
	if n, most := p.Size(packet.V5), l.WillBytes; n > most {
		return &packet.Error{Clause: "4.13.2", Reason: packet.QuotaExceeded, Text: fmt.Sprintf("a will message of %d bytes: limits.will_size is %d", n, most), Limit: "will_size"}
	}
	return l.checkTopic(w.Topic)
}

// refuse answers a CONNECT with the reason, where the client's version has a code for it, and
// returns it.
func (c *conn) refuse(err error) error {
	e, ok := err.(*packet.Error)
	if !ok || err == packet.ErrProtocolName {
		return err
	}
	// Before 5.0 no return code tells of a packet that is not as it should be: the connection is
	// just closed [3.1.1 MQTT-3.1.4-1].
	wrong := slices.Contains([]packet.ReasonCode{packet.MalformedPacket, packet.ProtocolError, packet.TopicNameInvalid, packet.PacketTooLarge}, e.Reason)
	if c.dec.Version == packet.V5 || !wrong {
		last := &packet.Connack{Reason: e.Reason, Properties: &packet.ConnackProperties{ReasonString: e.Error()}}
		if e.Reason == packet.UseAnotherServer {
			last.Properties.ServerReference = c.srv.another
		}
		if !c.link.takes(last) {
			last.Properties.ReasonString = "" // [MQTT-3.2.2-19]
		}
		if !c.link.takes(last) {
			last.Properties = nil
		}
		if c.link.takes(last) {
			c.link.out.end(last)
		}
	}
	return err
}

// fit leaves out of a CONNACK what its client can do without, if it is larger than the client takes
// [MQTT-3.1.2-24]. The server's limits and an assigned client identifier are nothing that it can do
// without: it is not let in without them.
func fit(l *link, x *packet.ConnackProperties) error {
	p := packet.Connack{Properties: x}
	if l.takes(&p) {
		return nil
	}
	if x.ResponseInformation = ""; l.takes(&p) {
		return nil
	}
	return &packet.Error{Clause: "MQTT-3.1.2-24", Reason: packet.PacketTooLarge, Text: "the client does not take a CONNACK with what it has to know"}
}

// refuseUnread answers a CONNECT that is not read to its end, in the version with which it begins.
func refuseUnread(c *conn, h packet.Header, err error) error {
	if _, ours := errors.AsType[*packet.Error](err); !ours || h.Type != packet.CONNECT {
		return err
	}
	c.dec.Peek(c.in.buf[c.in.start:])
	if c.link.version = c.dec.Version; c.link.version == 0 {
		return err
	}
	return c.refuse(err)
}

// window returns how many messages may be on their way to the client unacknowledged.
func (c *conn) window(p *packet.Connect) uint16 {
	if m := p.Properties.ReceiveMaximum; m > 0 {
		return min(m, c.listener.Bounds.Inflight)
	}
	return c.listener.Bounds.Inflight
}

// expiryOf returns the session expiry interval in seconds that a CONNECT asks for. Before 5.0 a
// session that is not clean never expires.
func expiryOf(p *packet.Connect) uint32 {
	switch {
	case p.Version == packet.V5:
		return p.Properties.SessionExpiry
	case p.CleanStart:
		return 0
	default:
		return Never
	}
}

func versionName(v packet.Version) string {
	switch v {
	case packet.V31:
		return "3.1"
	case packet.V311:
		return "3.1.1"
	default:
		return "5.0"
	}
}
