// Package listen opens the addresses at which clients connect: TCP and Unix sockets, with and
// without TLS, for MQTT, MQTT over WebSocket, and HTTP, all of them on one port if need be.
//
// Accept waits for no client. What has to be agreed on with one, which is TLS and WebSocket, and
// even the question which of them it speaks, is left to the Handshake of its Conn, so that a
// client that is slow at it makes nobody wait.
package listen

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
)

// Protocols are what a listener speaks, below TLS if there is any.
type Protocols byte

// What a listener can speak. One that speaks several tells them apart by the first byte.
const (
	MQTT      Protocols = 1 << iota // since CONNECT begins with 0x10
	WebSocket                       // MQTT in binary messages; since a request begins with GET
	HTTP                            // GET /health, which is 200 OK, and what is below /api/
)

// Options are what a Listener is made from.
type Options struct {
	Name      string    // for logs
	Address   string    // "host:port", ":port", or "unix:" and the path of a socket
	Protocols Protocols // 0: MQTT
	TLS       *Files    // nil: no TLS
	Plain     bool      // with TLS: connections that do not begin with a TLS handshake are taken too
	WebSocket Web
	Socket    Socket
	// API answers requests below /api/ where HTTP is spoken, whose head and body have up to 8 KB
	// together; nil: there are none. Each has RemoteAddr and, over TLS, TLS.
	API http.Handler
	Log *slog.Logger // required with TLS
}

// Web are the settings of MQTT over WebSocket.
type Web struct {
	Path string // of the URL; "": /mqtt. The path / is always there
	// Origins are the sites whose pages may connect, as in "https://app.example.com", besides the
	// one that has the name of the gateway itself; "*": any. Programs send no origin and may.
	Origins     []string
	MessageSize int64 // bytes of one message; 0: 1 MiB
}

// A Listener accepts connections. Its Accept returns a *Conn, or the socket itself where there is
// nothing to agree on.
type Listener struct {
	net.Listener
	o    Options
	keys *keyring // nil: no TLS

	mu   sync.Mutex
	live map[*Conn]struct{} // those with a client certificate

	watching sync.WaitGroup
	stop     context.CancelFunc
}

// Open opens an address. Files of a TLS listener are read now, and again whenever they change.
func Open(ctx context.Context, o Options) (*Listener, error) {
	if o.Protocols == 0 {
		o.Protocols = MQTT
	}
	if o.WebSocket.Path == "" {
		o.WebSocket.Path = "/mqtt"
	}
	if o.WebSocket.MessageSize == 0 {
		o.WebSocket.MessageSize = 1 << 20
	}
	l := &Listener{o: o, live: make(map[*Conn]struct{}), stop: func() {}}
	if o.TLS != nil {
		keys, err := newKeyring(*o.TLS)
		if err != nil {
			return nil, err
		}
		l.keys = keys
	}
	var err error
	if l.Listener, err = open(ctx, o.Address, o.Socket); err != nil {
		return nil, err
	}
	if l.keys != nil {
		var watch context.Context
		watch, l.stop = context.WithCancel(context.Background())
		l.warn(l.keys.current.Load())
		l.watching.Go(func() { l.watch(watch) })
	}
	return l, nil
}

// Accept returns the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil || l.keys == nil && l.o.Protocols == MQTT {
		return nc, err
	}
	return &Conn{Conn: nc, l: l}, nil
}

// Close closes the address. Connections stay, but are no longer checked when the files change.
func (l *Listener) Close() error {
	err := l.Listener.Close()
	l.stop()
	l.watching.Wait()
	return err
}

// join notes a connection that has shown a certificate. The files may have changed while it did.
func (l *Listener) join(c *Conn, shown *keys) error {
	l.mu.Lock()
	c.mu.Lock()
	if !c.closed {
		l.live[c] = struct{}{}
	}
	c.mu.Unlock()
	l.mu.Unlock()
	if now := l.keys.current.Load(); now != shown {
		return now.admit(c.ConnectionState())
	}
	return nil
}

func (l *Listener) leave(c *Conn) {
	l.mu.Lock()
	delete(l.live, c)
	l.mu.Unlock()
}

// part closes the connections whose certificates the keys admit no more.
func (l *Listener) part(k *keys) {
	l.mu.Lock()
	live := make([]*Conn, 0, len(l.live))
	for c := range l.live {
		live = append(live, c)
	}
	l.mu.Unlock()
	for _, c := range live {
		state := c.ConnectionState()
		if err := k.admit(state); err != nil {
			l.o.Log.Warn("connection closed: its certificate is no longer good", "listener", l.o.Name,
				"from", c.RemoteAddr(), "certificate", state.PeerCertificates[0].Subject.CommonName, "error", err)
			_ = c.Conn.Close() // the socket: a client that is shown out may not delay the others
		}
	}
}
