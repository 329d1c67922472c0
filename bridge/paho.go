package bridge

import (
	"context"
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

// A pahoLink is one connection that paho has made.
type pahoLink struct {
	*wire
	client mqtt.Client
	gone   chan struct{} // closed when paho's goroutines have ended
}

func (paho311) connect(ctx context.Context, conn net.Conn, o connectOptions, life *life, in receiver) (link, error) {
	l := &pahoLink{wire: newWire(conn, o, life, in), gone: make(chan struct{})}
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
	options.Servers = []*url.URL{{Scheme: "mqtt"}} // paho connects to as many as it is told
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
		life.end(err) // if paho has not closed the wire
		<-l.flushed
		return nil, life.cause()
	}
	return l, nil
}

// send hands p to paho, which encodes it and gives it to the wire.
func (l *pahoLink) send(p packet.Publish) error {
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

// call runs one call of paho that ends in Write, unless the connection has ended. If paho
// refuses it, what was handed and what is written may have parted: the connection ends.
func (l *pahoLink) call(f func() error) error {
	l.calls.Lock()
	defer l.calls.Unlock()
	if err := l.life.cause(); err != nil {
		return err
	}
	if err := f(); err != nil {
		err = fmt.Errorf("MQTT library: %w", err)
		l.life.end(err)
		return err
	}
	return nil
}

// failure returns what paho found wrong at once. Success may come later.
func failure(t mqtt.Token) error {
	select {
	case <-t.Done():
		return t.Error()
	default:
		return nil
	}
}

func (l *pahoLink) subscribe(ctx context.Context, s packet.Subscribe) (packet.Suback, error) {
	filters := make(map[string]byte, len(s.Filters))
	for _, f := range s.Filters {
		filters[f.Filter] = byte(f.QoS)
	}
	var token *mqtt.SubscribeToken
	err := l.call(func() error {
		l.ids.Lock()
		l.sub = subscription{id: s.ID, filters: len(filters)}
		l.ids.Unlock()
		t := l.client.SubscribeMultiple(filters, nil)
		token = t.(*mqtt.SubscribeToken)
		return failure(t)
	})
	if err != nil {
		return packet.Suback{}, err
	}
	select {
	case <-token.Done():
	case <-ctx.Done():
		return packet.Suback{}, context.Cause(ctx)
	case <-l.life.Done():
		return packet.Suback{}, l.life.cause()
	}
	if err := token.Error(); err != nil {
		return packet.Suback{}, err
	}
	ack := packet.Suback{Type: packet.SUBACK, ID: s.ID}
	for _, f := range s.Filters {
		ack.Reasons = append(ack.Reasons, packet.ReasonCode(token.Result()[f.Filter]))
	}
	return ack, nil
}

func (l *pahoLink) close() {
	l.finish()
	<-l.gone
}

// noStore is a store of paho that keeps nothing: the session has it all.
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
