package bridge

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"gateway/broker/packet"
)

// paho311 is the upstream for MQTT 3.1.1, over paho.mqtt.golang: one client object per
// connection, which reconnects nothing, stores nothing and acknowledges nothing. See wire.
type paho311 struct{}

func (paho311) version() packet.Version { return packet.V311 }

// A paho311Link is one connection that paho.mqtt.golang has made.
//
// The library chooses packet identifiers of its own, which do not survive a connection. The link
// puts the session's identifiers in their place, and back again in PUBACK, PUBCOMP, SUBACK and
// UNSUBACK.
type paho311Link struct {
	*wire
	client mqtt.Client
	gone   chan struct{} // closed when the library's goroutines have ended

	ids    sync.Mutex        // guards what follows
	handed []packet.Publish  // given to the library, not yet seen by Write
	paho   map[uint16]uint16 // its identifier of a PUBLISH that has left, by ours
	asked  request
}

// A request is the one SUBSCRIBE or UNSUBSCRIBE that is under way.
type request struct {
	id, paho uint16
	filters  int // 0: none is under way
}

func (paho311) connect(ctx context.Context, conn net.Conn, o connectOptions, life *life, in receiver) (link, error) {
	l := &paho311Link{gone: make(chan struct{}), paho: make(map[uint16]uint16)}
	l.wire = newWire(conn, packet.V311, o, life, in, l)
	l.wire.link = l
	options := mqtt.NewClientOptions().
		SetProtocolVersion(4).
		SetClientID(o.clientID).
		SetUsername(o.username).
		SetPassword(o.password).
		SetCleanSession(false).
		SetAutoReconnect(false).
		SetConnectRetry(false).
		SetKeepAlive(o.keepAlive).
		SetPingTimeout(24 * time.Hour). // silence is the wire's affair
		SetStore(noStore{}).
		SetCustomOpenConnectionFn(func(*url.URL, mqtt.ClientOptions) (net.Conn, error) { return l.wire, nil }).
		SetConnectionLostHandler(func(mqtt.Client, error) { close(l.gone) })
	options.Servers = []*url.URL{{Scheme: "mqtt"}} // it connects to as many as it is told
	if o.announceBridge {
		options.SetProtocolVersion(0x84)
	}
	if o.will != nil {
		options.SetBinaryWill(o.will.Topic, o.will.Payload, byte(o.will.QoS), o.will.Retain)
	}
	l.client = mqtt.NewClient(options)
	token := l.client.Connect()
	stop := context.AfterFunc(ctx, func() { life.end(context.Cause(ctx)) })
	defer stop()
	<-token.Done()
	if err := token.Error(); err != nil {
		life.end(err) // if the library has not closed the wire
		<-l.flushed
		return nil, life.cause()
	}
	return l, nil
}

// send hands p to the library, which encodes it and gives it to the wire.
func (l *paho311Link) send(p packet.Publish) error {
	if err := l.waitRoom(); err != nil {
		return err
	}
	return l.call(func() error {
		if p.QoS > 0 {
			l.ids.Lock()
			l.handed = append(l.handed, packet.Publish{ID: p.ID, Dup: p.Dup})
			l.ids.Unlock()
		}
		token := l.client.Publish(p.Topic, byte(p.QoS), p.Retain, p.Payload)
		if p.QoS == 0 { // complete when it is written: it may be the last before close
			select {
			case <-token.Done():
			case <-l.life.Done():
			}
		}
		return failure(token)
	})
}

// failure returns what the library found wrong at once. Success may come later.
func failure(t mqtt.Token) error {
	select {
	case <-t.Done():
		return t.Error()
	default:
		return nil
	}
}

func (l *paho311Link) subscribe(ctx context.Context, s packet.Subscribe) (packet.Suback, error) {
	filters := make(map[string]byte, len(s.Filters))
	for _, f := range s.Filters {
		filters[f.Filter] = byte(f.QoS)
	}
	token, err := l.ask(ctx, request{id: s.ID, filters: len(filters)}, func() mqtt.Token {
		return l.client.SubscribeMultiple(filters, nil)
	})
	if err != nil {
		return packet.Suback{}, err
	}
	ack := packet.Suback{Type: packet.SUBACK, ID: s.ID}
	for _, f := range s.Filters {
		ack.Reasons = append(ack.Reasons, packet.ReasonCode(token.(*mqtt.SubscribeToken).Result()[f.Filter]))
	}
	return ack, nil
}

func (l *paho311Link) unsubscribe(ctx context.Context, u packet.Unsubscribe) error {
	_, err := l.ask(ctx, request{id: u.ID, filters: len(u.Filters)}, func() mqtt.Token {
		return l.client.Unsubscribe(u.Filters...)
	})
	return err
}

// ask sends a SUBSCRIBE or UNSUBSCRIBE and waits for its answer.
func (l *paho311Link) ask(ctx context.Context, r request, send func() mqtt.Token) (token mqtt.Token, err error) {
	err = l.call(func() error {
		l.ids.Lock()
		l.asked = r
		l.ids.Unlock()
		token = send()
		return failure(token)
	})
	if err != nil {
		return nil, err
	}
	select {
	case <-token.Done():
		return token, token.Error()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-l.life.Done():
		return nil, l.life.cause()
	}
}

func (l *paho311Link) close() {
	l.finish()
	<-l.gone
}

// sees translates the identifier of an acknowledgement that the library waits for.
func (l *paho311Link) sees(a packet.Ack) []byte {
	if a.Type != packet.PUBACK && a.Type != packet.PUBCOMP {
		return nil
	}
	l.ids.Lock()
	id, ok := l.paho[a.ID]
	delete(l.paho, a.ID)
	l.ids.Unlock()
	if !ok {
		return nil
	}
	a.ID = id
	return a.Append(nil, packet.V311)
}

// answered checks what the library does not: more codes than filters would be its panic.
func (l *paho311Link) answered(a packet.Suback, raw, body []byte) ([]byte, error) {
	l.ids.Lock()
	defer l.ids.Unlock()
	if l.asked.filters == 0 || a.ID != l.asked.id || a.Type == packet.SUBACK && len(a.Reasons) != l.asked.filters {
		return nil, fmt.Errorf("%w: %s without its request", errProtocol, a.Type)
	}
	binary.BigEndian.PutUint16(body, l.asked.paho)
	l.asked = request{}
	return raw, nil
}

// wrote puts the session's packet identifier in the place of the library's.
func (l *paho311Link) wrote(h packet.Header, raw, body []byte) bool {
	l.ids.Lock()
	defer l.ids.Unlock()
	switch {
	case h.Type == packet.PUBLISH && h.Flags&0b0110 != 0:
		if len(l.handed) == 0 {
			return false
		}
		p := l.handed[0]
		l.handed = l.handed[1:]
		if p.Dup {
			raw[0] |= 0b1000
		}
		id := body[2+int(binary.BigEndian.Uint16(body)):] // behind the topic
		l.paho[p.ID] = binary.BigEndian.Uint16(id)
		binary.BigEndian.PutUint16(id, p.ID)
	case h.Type == packet.SUBSCRIBE, h.Type == packet.UNSUBSCRIBE:
		l.asked.paho = binary.BigEndian.Uint16(body)
		binary.BigEndian.PutUint16(body, l.asked.id)
	}
	return true
}

// noStore is a store of the library that keeps nothing: the session has it all.
type noStore struct{}

func (noStore) Open()                             {}
func (noStore) Put(string, packets.ControlPacket) {}
func (noStore) Get(string) packets.ControlPacket  { return nil }
func (noStore) All() []string                     { return nil }
func (noStore) Del(string)                        {}
func (noStore) Close()                            {}
func (noStore) Reset()                            {}

// routePahoLog sends what paho prints to log, once for the process: paho has one log for all its
// clients. What it calls an error is news of a lost connection, which the bridge reports
// better: all of it is for debugging.
func routePahoLog(log *slog.Logger) {
	pahoLog.Do(func() {
		mqtt.CRITICAL, mqtt.ERROR, mqtt.WARN = pahoLogger{log}, pahoLogger{log}, pahoLogger{log}
	})
}

var pahoLog sync.Once

type pahoLogger struct{ log *slog.Logger }

func (p pahoLogger) Println(v ...any)          { p.print(fmt.Sprintln(v...)) }
func (p pahoLogger) Printf(f string, v ...any) { p.print(fmt.Sprintf(f, v...)) }
func (p pahoLogger) print(s string)            { p.log.Debug("paho: " + strings.TrimSpace(s)) }
