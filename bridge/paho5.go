package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	paholog "github.com/eclipse/paho.golang/paho/log"
	"github.com/eclipse/paho.golang/paho/session"

	"gateway/broker/packet"
)

// paho5 is the upstream for MQTT 5.0, over paho.golang: one client object per connection, with
// a session manager of ours that keeps nothing. See wire.
type paho5 struct{}

func (paho5) version() packet.Version { return packet.V5 }

// A paho5Link is one connection that paho.golang has made.
type paho5Link struct {
	*wire
	client  *paho.Client
	session pahoSession
}

func (paho5) connect(ctx context.Context, conn net.Conn, o connectOptions, life *life, in receiver) (link, error) {
	l := &paho5Link{}
	l.wire = newWire(conn, packet.V5, o, life, in, l)
	l.wire.link = l
	l.client = paho.NewClient(paho.ClientConfig{
		Conn:              &wholeWrites{wire: l.wire},
		Session:           &l.session,
		PingHandler:       pinger{every: o.keepAlive},
		PacketTimeout:     24 * time.Hour, // the callers' contexts have the timeouts
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){},
		Router:            paho.NewStandardRouter(), // it gets nothing, and is asked for
		AuthHandler:       silence{},
	})
	hello := connectPacket(o)
	var err error
	if hello.Properties.AuthMethod, hello.Properties.AuthData, err = l.wire.begin(); err == nil {
		_, err = l.client.Connect(ctx, hello)
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		life.end(err) // if the wire has not ended it
		<-l.flushed
		return nil, life.cause()
	}
	return l, nil
}

// connectPacket returns the CONNECT of a bridge.
func connectPacket(o connectOptions) *paho.Connect {
	expiry := uint32(min(o.sessionExpiry/time.Second, math.MaxUint32))
	maximum, largest := uint16(maxReceipts), uint32(o.maxPacket)
	c := &paho.Connect{
		ClientID: o.clientID, KeepAlive: uint16(o.keepAlive / time.Second),
		Username: o.username, UsernameFlag: o.username != "",
		Password: []byte(o.password), PasswordFlag: o.password != "",
		Properties: &paho.ConnectProperties{
			SessionExpiryInterval: &expiry, ReceiveMaximum: &maximum, MaximumPacketSize: &largest,
			RequestProblemInfo: true,
		},
	}
	if w := o.will; w != nil {
		c.WillMessage = &paho.WillMessage{Topic: w.Topic, Payload: w.Payload, QoS: byte(w.QoS), Retain: w.Retain}
		c.WillProperties = &paho.WillProperties{}
	}
	return c
}

// send hands p to the library, which encodes it and gives it to the wire.
func (l *paho5Link) send(p packet.Publish) error {
	if err := l.waitRoom(); err != nil {
		return err
	}
	return l.call(func() error {
		l.session.next(p)
		_, err := l.client.PublishWithOptions(l.life, &paho.Publish{
			QoS: byte(p.QoS), Retain: p.Retain, Topic: p.Topic, Payload: p.Payload,
			Properties: publishProperties(p.Properties),
		}, paho.PublishOptions{Method: paho.PublishMethod_AsyncSend})
		return err
	})
}

// publishProperties are the properties of an outgoing PUBLISH, without those that mean something
// to one connection alone. The library writes neither an empty content type nor empty correlation data.
func publishProperties(p *packet.PublishProperties) *paho.PublishProperties {
	if p == nil {
		return &paho.PublishProperties{} // the library wants one
	}
	out := &paho.PublishProperties{
		CorrelationData: p.CorrelationData, ContentType: p.ContentType, ResponseTopic: p.ResponseTopic,
	}
	if p.PayloadFormat != 0 || p.PayloadUnspecified {
		out.PayloadFormat = &p.PayloadFormat
	}
	if p.HasMessageExpiry {
		out.MessageExpiry = &p.MessageExpiry
	}
	for _, u := range p.User {
		out.User.Add(u.Name, u.Value)
	}
	return out
}

func (l *paho5Link) subscribe(ctx context.Context, s packet.Subscribe) (packet.Suback, error) {
	var ask paho.Subscribe
	for _, f := range s.Filters {
		ask.Subscriptions = append(ask.Subscriptions, paho.SubscribeOptions{
			Topic: f.Filter, QoS: byte(f.QoS), NoLocal: f.NoLocal,
			RetainAsPublished: f.RetainAsPublished, RetainHandling: f.RetainHandling,
		})
	}
	ctx, stop := l.session.ask(ctx, l.life, s.ID, len(s.Filters))
	defer stop()
	ack, err := l.client.Subscribe(ctx, &ask)
	if ack == nil {
		return packet.Suback{}, l.asked(ctx, err)
	}
	out := packet.Suback{Type: packet.SUBACK, ID: s.ID} // an error with an answer is in its reasons
	for _, r := range ack.Reasons {
		out.Reasons = append(out.Reasons, packet.ReasonCode(r))
	}
	return out, nil
}

func (l *paho5Link) unsubscribe(ctx context.Context, u packet.Unsubscribe) error {
	ctx, stop := l.session.ask(ctx, l.life, u.ID, len(u.Filters))
	defer stop()
	ack, err := l.client.Unsubscribe(ctx, &paho.Unsubscribe{Topics: u.Filters})
	if ack == nil {
		return l.asked(ctx, err)
	}
	return nil
}

// asked returns why a request has no answer.
func (l *paho5Link) asked(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return fmt.Errorf("MQTT library: %w", err)
}

func (l *paho5Link) close() {
	l.finish()
	<-l.client.Done()
}

// sees hides the QoS flows from the library.
func (l *paho5Link) sees(packet.Ack) []byte { return nil }

func (l *paho5Link) answered(a packet.Suback, raw, _ []byte) ([]byte, error) {
	if !l.session.expects(a) {
		return nil, fmt.Errorf("%w: %s without its request", errProtocol, a.Type)
	}
	return raw, nil
}

// wrote finds nothing to do: the session manager has chosen the identifiers.
func (l *paho5Link) wrote(packet.Header, []byte, []byte) bool { return true }

// wholeWrites is the wire as the library writes to it: in several pieces, with the lock held
// around those of one packet.
type wholeWrites struct {
	*wire
	sync.Mutex
}

// A pahoSession is the session manager that paho.golang asks for: it gives PUBLISH, SUBSCRIBE
// and UNSUBSCRIBE the packet identifiers that the bridge has chosen, and passes SUBACK and
// UNSUBACK on. All else of a session is the handover's.
type pahoSession struct {
	mu      sync.Mutex
	publish packet.Publish // the one that is being sent: its ID and DUP
	id      uint16         // of the one SUBSCRIBE or UNSUBSCRIBE that is under way
	filters int            // of it; 0: none is under way
	answer  chan<- packets.ControlPacket
}

var _ session.SessionManager = (*pahoSession)(nil)

// next says which PUBLISH comes.
func (s *pahoSession) next(p packet.Publish) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.publish = packet.Publish{ID: p.ID, Dup: p.Dup}
}

// ask says which SUBSCRIBE or UNSUBSCRIBE comes. It returns a context that ends with ctx and with
// the connection.
func (s *pahoSession) ask(ctx context.Context, l *life, id uint16, filters int) (context.Context, func()) {
	s.mu.Lock()
	s.id, s.filters = id, filters
	s.mu.Unlock()
	ctx, end := context.WithCancelCause(ctx)
	stop := context.AfterFunc(l, func() { end(l.cause()) })
	return ctx, func() { stop(); end(nil) }
}

// expects reports whether an answer is one to the request under way.
func (s *pahoSession) expects(a packet.Suback) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ok := s.filters > 0 && s.answer != nil && a.ID == s.id && len(a.Reasons) == s.filters
	s.filters = 0
	return ok
}

var errUnasked = errors.New("packet without a reason to be sent")

// AddToSession gives a packet its identifier. It is called by the library, from within Publish,
// Subscribe and Unsubscribe.
func (s *pahoSession) AddToSession(_ context.Context, p session.Packet, answer chan<- packets.ControlPacket) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := p.(*packets.Publish); ok {
		if s.publish.ID == 0 {
			return errUnasked
		}
		p.PacketID, p.Duplicate = s.publish.ID, s.publish.Dup
		s.publish = packet.Publish{}
		return nil
	}
	p.SetIdentifier(s.id)
	s.answer = answer
	return nil
}

// PacketReceived passes SUBACK and UNSUBACK on; the wire lets nothing else through.
func (s *pahoSession) PacketReceived(p *packets.ControlPacket, _ chan<- *packets.Publish) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answer != nil {
		s.answer <- *p // which has room for it
		s.answer = nil
	}
	return nil
}

func (*pahoSession) ConAckReceived(io.Writer, *packets.Connect, *packets.Connack) error { return nil }
func (*pahoSession) ConnectionLost(*packets.Disconnect) error                           { return nil }
func (*pahoSession) Ack(*packets.Publish) error                                         { return nil }
func (*pahoSession) Close() error                                                       { return nil }
func (*pahoSession) SetErrorLogger(paholog.Logger)                                      {}
func (*pahoSession) SetDebugLogger(paholog.Logger)                                      {}

// A pinger sends PINGREQ again and again, whatever else is sent: so a living cloud is heard at
// least as often. Who waits for the answer is the wire.
type pinger struct{ every time.Duration }

// Run pings until ctx ends. keepAlive is what the cloud wants, in seconds; 0: nothing.
func (p pinger) Run(ctx context.Context, conn net.Conn, keepAlive uint16) error {
	every := p.every
	if k := time.Duration(keepAlive) * time.Second; k > 0 {
		every = min(every, k)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if _, err := packets.NewControlPacket(packets.PINGREQ).WriteTo(conn); err != nil {
				return err
			}
		}
	}
}

func (pinger) PacketSent()             {}
func (pinger) PacketReceived()         {}
func (pinger) PingResp()               {}
func (pinger) SetDebug(paholog.Logger) {}
