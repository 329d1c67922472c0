package listen

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"

	"github.com/gorilla/websocket"
)

// ports are the customary ones, by the scheme of the URL.
var ports = map[string]string{
	"mqtt": "1883", "tcp": "1883", "mqtts": "8883", "tls": "8883", "ssl": "8883", "ws": "8083", "wss": "8084",
}

// Dial opens the other end of such a connection, for clients: mqtt:// or tcp://, mqtts://, tls:// or
// ssl://, ws://, wss://, each with HOST[:PORT], or unix:///PATH. The path of a WebSocket is /mqtt
// unless given. config may be nil for the system's roots; the server name is filled in. ctx bounds
// the time until MQTT may begin.
func Dial(ctx context.Context, address string, config *tls.Config) (net.Conn, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "unix" {
		return new(net.Dialer).DialContext(ctx, "unix", u.Path)
	}
	port, known := ports[u.Scheme]
	if !known {
		return nil, fmt.Errorf("%q: want mqtt, mqtts, ws or wss://HOST:PORT, or unix:///PATH", address)
	}
	if u.Hostname() == "" {
		return nil, fmt.Errorf("%q has no host: want %s://HOST:PORT", address, u.Scheme)
	}
	socket, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port)))
	if err != nil {
		return nil, err
	}
	if u.Scheme == "mqtt" || u.Scheme == "tcp" {
		return socket, nil
	}
	c := &Conn{Conn: socket}
	interrupt := context.AfterFunc(ctx, func() { _ = socket.SetDeadline(time.Unix(1, 0)) })
	err = c.shakeHands(ctx, u, config)
	if !interrupt() {
		err = cmp.Or(ctx.Err(), err)
	}
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	return c, nil
}

// Upgrade makes a WebSocket of a connection, for clients: through TLS, if that is wanted, already.
// The host and the path of the request are those of address. Closing it closes conn.
func Upgrade(ctx context.Context, conn net.Conn, address string) (net.Conn, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	c := &Conn{Conn: conn}
	interrupt := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	u.Scheme = "ws"
	err = c.shakeHands(ctx, u, nil)
	if !interrupt() {
		err = cmp.Or(ctx.Err(), err)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// shakeHands makes the client's part of the handshakes that the URL asks for.
func (c *Conn) shakeHands(ctx context.Context, u *url.URL, config *tls.Config) error {
	switch u.Scheme {
	case "mqtts", "tls", "ssl", "wss":
		if config == nil {
			config = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		config = config.Clone()
		config.ServerName = cmp.Or(config.ServerName, u.Hostname())
		t := tls.Client(c.Conn, config)
		if err := t.HandshakeContext(ctx); err != nil {
			return err
		}
		c.tls = t
	}
	if u.Scheme != "ws" && u.Scheme != "wss" {
		return nil
	}
	below := newUndated(c.Conn, c.stream())
	d := websocket.Dialer{
		// TLS, if any, is there already.
		NetDialContext: func(context.Context, string, string) (net.Conn, error) { return below, nil },
		ReadBufferSize: readBuffer, WriteBufferSize: writeBuffer, WriteBufferPool: &writeBuffers,
		Subprotocols: subprotocols[:1],
	}
	target := url.URL{Scheme: "ws", Host: u.Host, Path: cmp.Or(u.Path, "/mqtt"), RawQuery: u.RawQuery}
	ws, response, err := d.DialContext(ctx, target.String(), nil)
	if err != nil && response != nil {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 200))
		return fmt.Errorf("the server refuses the WebSocket: %s %q", response.Status, text)
	}
	if err != nil {
		return err
	}
	if ws.Subprotocol() != subprotocols[0] {
		return errors.New("the server speaks no MQTT over WebSocket: it has not taken the subprotocol mqtt [MQTT-6.0.0-4]")
	}
	c.ws = newWebSocket(ws, below, nil, 0)
	return nil
}
