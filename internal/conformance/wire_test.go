package conformance

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"gateway/broker/packet"
)

// A wire is a client that sends and expects single packets. What it sends gets the site's prefix
// before topics, filters and client identifiers; what it reads is shown without it.
type wire struct {
	*site
	nc      net.Conn
	dec     packet.Decoder
	buf     []byte
	aliases map[uint16]string // those that the server may use; nil: none

	size     int                   // bytes of the packet read last
	last     packet.Publish        // the PUBLISH read last
	id       uint16                // its packet identifier, or that of a later PUBREL
	connack  packet.Connack        // once it came
	auth     packet.Auth           // read last
	received []uint16              // identifiers whose PUBREC was sent by next, and PUBREL has not come
	failed   bool                  // whether the acknowledgement read last was a refusal
	reason   string                // the reason string read last
	user     []packet.UserProperty // the user properties read last, but for those of a PUBLISH
}

// patience is how long a packet is waited for.
const patience = 10 * time.Second

// dial connects without saying CONNECT.
func (s *site) dial() *wire { s.t.Helper(); return s.dialAs(s.v) }

func (s *site) dialAs(v packet.Version) *wire {
	s.t.Helper()
	nc, err := net.Dial("tcp", under.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = nc.Close() })
	n := *s
	n.v = v
	return &wire{site: &n, nc: nc, dec: packet.Decoder{Version: v}}
}

// connect says CONNECT and expects to be let in.
func (s *site) connect(c packet.Connect) *wire {
	s.t.Helper()
	w := s.open(c)
	w.expect("CONNACK Success…")
	return w
}

// open says CONNECT.
func (s *site) open(c packet.Connect) *wire {
	s.t.Helper()
	w := s.dial()
	if c.Properties.TopicAliasMaximum > 0 {
		w.aliases = make(map[uint16]string)
	}
	w.send(&c)
	return w
}

// clean is a CONNECT for a session that ends with its connection, kept one for a session that
// goes on.
func clean(id string) packet.Connect { return packet.Connect{ClientID: id, CleanStart: true} }

func kept(id string) packet.Connect { return expiring(id, 1000) }

// expiring is kept with a session expiry interval, in seconds.
func expiring(id string, seconds uint32) packet.Connect {
	return packet.Connect{ClientID: id, Properties: packet.ConnectProperties{SessionExpiry: seconds, HasSessionExpiry: true}}
}

// cut ends the connection without DISCONNECT, and leave with one.
func (w *wire) cut() { _ = w.nc.Close() }

func (w *wire) leave() {
	w.t.Helper()
	w.send(&packet.Disconnect{})
	w.expect("closed")
}

type encoder interface {
	Append(dst []byte, v packet.Version) []byte
}

// send sends packets in one segment.
func (w *wire) send(packets ...encoder) {
	w.t.Helper()
	w.raw(w.encode(packets...))
}

func (w *wire) encode(packets ...encoder) (b []byte) {
	for _, p := range packets {
		b = w.own(p).Append(b, w.v)
	}
	return b
}

func (w *wire) raw(b []byte) {
	w.t.Helper()
	_ = w.nc.SetWriteDeadline(time.Now().Add(patience))
	if _, err := w.nc.Write(b); err != nil {
		w.t.Fatal(err)
	}
}

// own puts the site's prefix before the names in a packet.
func (s *site) own(p encoder) encoder {
	switch p := p.(type) {
	case *packet.Connect:
		c := *p
		if c.ClientID != "" {
			c.ClientID = s.prefix + "-" + c.ClientID
		}
		if c.Will != nil {
			w := *c.Will
			w.Topic = s.topic(w.Topic)
			c.Will = &w
		}
		return &c
	case *packet.Publish:
		c := *p
		if c.Topic != "" {
			c.Topic = s.topic(c.Topic)
		}
		return &c
	case *packet.Subscribe:
		c := *p
		c.Filters = nil
		for _, f := range p.Filters {
			f.Filter = s.topic(f.Filter)
			c.Filters = append(c.Filters, f)
		}
		return &c
	case *packet.Unsubscribe:
		c := *p
		c.Filters = nil
		for _, f := range p.Filters {
			c.Filters = append(c.Filters, s.topic(f))
		}
		return &c
	}
	return p
}

// topic puts the site's prefix before a topic or filter. One that begins with "=" is taken as it
// is, "%" in it being the prefix.
func (s *site) topic(name string) string {
	if rest, ok := strings.CutPrefix(name, "="); ok {
		return strings.ReplaceAll(rest, "%", s.prefix)
	}
	if rest, ok := strings.CutPrefix(name, "$share/"); ok {
		group, filter, _ := strings.Cut(rest, "/")
		return "$share/" + group + "/" + s.prefix + "/" + filter
	}
	return s.prefix + "/" + name
}

// expect reads packets and compares them with lines as read returns them. A line that ends with
// "…" is compared up to there.
func (w *wire) expect(lines ...string) {
	w.t.Helper()
	for _, want := range lines {
		if w.v == packet.V31 { // it does not tell
			want = strings.TrimSuffix(want, " present")
		}
		got := w.read()
		if prefix, ok := strings.CutSuffix(want, "…"); ok && strings.HasPrefix(got, prefix) {
			continue
		}
		if got != want {
			w.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// silent fails if a packet comes before the answer to a PINGREQ.
func (w *wire) silent() {
	w.t.Helper()
	w.send(&packet.Ping{Type: packet.PINGREQ})
	w.expect("PINGRESP")
}

// refused expects that the server ends the connection: in 5.0 with a DISCONNECT that tells one of
// the reasons, which the standard recommends and the gateway does; before 5.0 without a word.
func (w *wire) refused(reasons ...packet.ReasonCode) {
	w.t.Helper()
	w.ended("DISCONNECT", reasons)
}

// turnedAway expects that the server ends the connection in answer to a CONNECT, in 5.0 with a
// CONNACK that tells one of the reasons, before 5.0 with the return code for it or without a word.
func (w *wire) turnedAway(reasons ...packet.ReasonCode) {
	w.t.Helper()
	w.ended("CONNACK", reasons)
	if w.connack.SessionPresent {
		w.t.Error("Session Present in a refusal")
	}
}

// ended is strict with the gateway. Other brokers may keep the reason to themselves, or choose
// another: that they end the connection is all that the standard demands.
func (w *wire) ended(with string, reasons []packet.ReasonCode) {
	w.t.Helper()
	got := w.read()
	if got == "closed" && (w.v < packet.V5 || under.name != "gateway") {
		return
	}
	if strings.HasPrefix(got, with+" ") && (w.v == packet.V5 || with == "CONNACK") {
		known := slices.ContainsFunc(reasons, func(r packet.ReasonCode) bool { return got == with+" "+r.String() })
		if known || under.name != "gateway" && got != "CONNACK Success" {
			w.expect("closed")
			return
		}
	}
	w.t.Fatalf("got %q, want %s with %v and the end of the connection", got, with, reasons)
}

// read returns the next packet as a line of text, or "closed", or "nothing".
func (w *wire) read() string {
	w.t.Helper()
	return w.readWithin(patience)
}

func (w *wire) readWithin(d time.Duration) string {
	w.t.Helper()
	_ = w.nc.SetReadDeadline(time.Now().Add(d))
	for {
		h, n, err := packet.ParseHeader(w.buf)
		if err != nil {
			w.t.Fatal(err)
		}
		if n > 0 && len(w.buf) >= n+h.Length {
			w.size = n + h.Length
			body := w.buf[n:w.size]
			w.buf = w.buf[w.size:]
			line, err := w.describe(h, body)
			if err != nil {
				w.t.Fatalf("%s: %v", h.Type, err)
			}
			return line
		}
		b := make([]byte, 4096)
		k, err := w.nc.Read(b)
		w.buf = append(w.buf, b[:k]...)
		switch {
		case k > 0:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return "nothing"
		case err != nil:
			return "closed"
		}
	}
}

// describe shows a packet as a line of text and remembers what is in it.
func (w *wire) describe(h packet.Header, body []byte) (line string, err error) {
	switch h.Type {
	case packet.CONNACK:
		w.connack, err = w.dec.Connack(body)
		line = "CONNACK " + w.connack.Reason.String()
		if w.connack.SessionPresent {
			line += " present"
		}
		if p := w.connack.Properties; p != nil {
			w.reason, w.user = p.ReasonString, p.User
		}
	case packet.PUBLISH:
		p, err := w.dec.Publish(h.Flags, body)
		p.Payload = []byte(string(p.Payload))
		w.last, w.id = p, p.ID
		return w.describePublish(&p), err
	case packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP:
		var a packet.Ack
		a, err = w.dec.Ack(h.Type, body)
		line = fmt.Sprintf("%s %d", h.Type, a.ID)
		if h.Type == packet.PUBREL {
			line, w.id = "PUBREL", a.ID
		}
		if w.failed = a.Reason.Failed(); w.failed {
			line += " " + a.Reason.String()
		}
		w.reason, w.user = a.ReasonString, a.User
	case packet.SUBACK, packet.UNSUBACK:
		var a packet.Suback
		a, err = w.dec.Suback(h.Type, body)
		line = fmt.Sprintf("%s %d", h.Type, a.ID)
		for _, r := range a.Reasons {
			line += fmt.Sprintf(" %02x", byte(r))
		}
		w.reason, w.user = a.ReasonString, a.User
	case packet.DISCONNECT:
		var d packet.Disconnect
		d, err = w.dec.Disconnect(body)
		line = "DISCONNECT " + d.Reason.String()
		if d.HasSessionExpiry {
			line += " session expiry"
		}
		w.reason, w.user = d.ReasonString, d.User
	case packet.AUTH:
		w.auth, err = w.dec.Auth(body)
		line = "AUTH " + w.auth.Reason.String() + " " + w.auth.Method
	default:
		line = h.Type.String()
	}
	return line, err
}

// describePublish shows a PUBLISH, with its topic in the place of an alias.
func (w *wire) describePublish(p *packet.Publish) string {
	topic, alias := p.Topic, ""
	if x := p.Properties; x != nil && x.TopicAlias > 0 {
		alias = " alias"
		if topic == "" {
			topic = w.aliases[x.TopicAlias]
		} else if w.aliases != nil {
			w.aliases[x.TopicAlias] = topic
		}
	}
	line := fmt.Sprintf("PUBLISH %s=%s q%d", strings.TrimPrefix(topic, w.prefix+"/"), p.Payload, p.QoS)
	if p.Dup {
		line += " dup"
	}
	if p.Retain {
		line += " retain"
	}
	return line + alias
}

// The packets of tests, in short.

func publish(topic, payload string, qos packet.QoS, id uint16) *packet.Publish {
	return &packet.Publish{Topic: topic, Payload: []byte(payload), QoS: qos, ID: id}
}

func retained(topic, payload string, qos packet.QoS, id uint16) *packet.Publish {
	p := publish(topic, payload, qos, id)
	p.Retain = true
	return p
}

func subscribe(id uint16, filters ...packet.Subscription) *packet.Subscribe {
	return &packet.Subscribe{ID: id, Filters: filters}
}

func filter(f string, qos packet.QoS) packet.Subscription {
	return packet.Subscription{Filter: f, QoS: qos}
}

func unsubscribe(id uint16, filters ...string) *packet.Unsubscribe {
	return &packet.Unsubscribe{ID: id, Filters: filters}
}

func ack(t packet.Type, id uint16) *packet.Ack { return &packet.Ack{Type: t, ID: id} }

// subscriber connects a client and subscribes it.
func (s *site) subscriber(c packet.Connect, filters ...packet.Subscription) *wire {
	s.t.Helper()
	w := s.connect(c)
	w.subscribe(filters...)
	return w
}

// subscribe subscribes and expects that all is granted.
func (w *wire) subscribe(filters ...packet.Subscription) {
	w.t.Helper()
	line := "SUBACK 999"
	for _, f := range filters {
		line += fmt.Sprintf(" %02x", byte(f.QoS))
	}
	w.send(subscribe(999, filters...))
	w.expect(line)
}

// publish publishes and sees it acknowledged.
func (w *wire) publish(messages ...*packet.Publish) {
	w.t.Helper()
	for _, p := range messages {
		w.send(p)
		switch p.QoS {
		case 0:
			w.silent()
		case 1:
			w.expect(fmt.Sprintf("PUBACK %d", p.ID))
		case 2:
			w.expect(fmt.Sprintf("PUBREC %d", p.ID))
			w.send(ack(packet.PUBREL, p.ID))
			w.expect(fmt.Sprintf("PUBCOMP %d", p.ID))
		}
	}
}

// take expects a PUBLISH and acknowledges it as its QoS demands.
func (w *wire) take(lines ...string) {
	w.t.Helper()
	for _, line := range lines {
		w.expect(line)
		id := w.id
		switch w.last.QoS {
		case 1:
			w.send(ack(packet.PUBACK, id))
		case 2:
			w.send(ack(packet.PUBREC, id))
			w.expect("PUBREL")
			if w.id != id {
				w.t.Fatalf("PUBREL for %d, want %d", w.id, id)
			}
			w.send(ack(packet.PUBCOMP, id))
		}
	}
}

// burst returns the messages that come before the answer to a PINGREQ, and acknowledges those at
// QoS 1.
func (w *wire) burst() (got []packet.Publish) {
	w.t.Helper()
	w.send(&packet.Ping{Type: packet.PINGREQ})
	for {
		line := w.read()
		switch {
		case line == "PINGRESP":
			return got
		case !strings.HasPrefix(line, "PUBLISH "):
			w.t.Fatalf("got %q, want messages", line)
		case w.last.QoS == 1:
			w.send(ack(packet.PUBACK, w.id))
		}
		got = append(got, w.last)
	}
}

// elapse returns when the broker's clock has gone on by some seconds, which a delayed will tells.
func (s *site) elapse(seconds uint32) {
	s.t.Helper()
	name := fmt.Sprintf("clock%d", sites.Add(1))
	watch := s.dialAs(packet.V5)
	c := clean(name + "w")
	watch.send(&c)
	watch.expect("CONNACK Success")
	watch.subscribe(filter(name, 0))
	clock := s.dialAs(packet.V5)
	c = expiring(name, 100)
	c.Will = &packet.Will{Topic: name, Delay: seconds}
	clock.send(&c)
	clock.expect("CONNACK Success")
	clock.cut()
	watch.expect("PUBLISH " + name + "= q0")
	c = clean(name) // leaves no session behind
	s.connect(c).leave()
}
