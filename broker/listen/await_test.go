package listen_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"gateway/broker/listen"
)

// ends returns both ends of a connection, which the client begins with begin; from then on the client's
// is the test's.
func ends(t *testing.T, o listen.Options, config *tls.Config, begin func(io.ReadWriter)) (client net.Conn, server *listen.Conn) {
	t.Helper()
	o.Address = "127.0.0.1:0"
	ln, err := listen.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	socket, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client = socket
	t.Cleanup(func() { _ = socket.Close() })
	if config != nil {
		config.ServerName = "localhost"
		client = tls.Client(socket, config)
	}
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	server = nc.(*listen.Conn)
	done := make(chan error, 1)
	go func() { done <- server.HandshakeContext(t.Context()) }()
	begin(client)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return client, server
}

// What has come from the socket and was not read yet is not waited for. Two frames come in one piece,
// of which the server reads one.
func TestAwaitReadAhead(t *testing.T) {
	s := newSite(t)
	for _, way := range []struct {
		name   string
		files  *listen.Files
		config *tls.Config
	}{{"ws", nil, nil}, {"wss", &s.files, s.client("reader")}} {
		t.Run(way.name, func(t *testing.T) {
			client, server := ends(t, listen.Options{Protocols: listen.WebSocket, TLS: way.files}, way.config,
				func(c io.ReadWriter) { upgrade(t, c, "Sec-WebSocket-Protocol: mqtt\r\n") })
			_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
			for range 3 {
				var both bytes.Buffer
				for _, text := range []string{"first", "next"} {
					writeFrame(t, &both, 0x80|websocket.BinaryMessage, []byte(text))
				}
				if _, err := client.Write(both.Bytes()); err != nil {
					t.Fatal(err)
				}
				for _, text := range []string{"first", "next"} {
					if err := server.Await(); err != nil {
						t.Fatalf("before %q: %v", text, err)
					}
					b := make([]byte, len(text))
					if _, err := io.ReadFull(server, b); err != nil || string(b) != text {
						t.Fatalf("read %q, %v, want %q", b, err, text)
					}
				}
			}
		})
	}
}

// Await waits for bytes, for the end of the connection, or for the deadline, after which it and Read go
// on.
func TestAwait(t *testing.T) {
	s := newSite(t)
	for _, way := range []struct {
		name      string
		files     *listen.Files
		config    *tls.Config
		protocols listen.Protocols
		begin     func(io.ReadWriter)
		frame     func(string) []byte
	}{
		{"TLS", &s.files, s.client("waiter"), listen.MQTT,
			func(c io.ReadWriter) {
				if err := c.(*tls.Conn).Handshake(); err != nil {
					t.Fatal(err)
				}
			},
			func(text string) []byte { return []byte(text) }},
		{"WebSocket", nil, nil, listen.WebSocket,
			func(c io.ReadWriter) { upgrade(t, c, "Sec-WebSocket-Protocol: mqtt\r\n") },
			func(text string) []byte {
				var b bytes.Buffer
				writeFrame(t, &b, 0x80|websocket.BinaryMessage, []byte(text))
				return b.Bytes()
			}},
	} {
		t.Run(way.name, func(t *testing.T) {
			client, server := ends(t, listen.Options{Protocols: way.protocols, TLS: way.files}, way.config, way.begin)
			if way.files != nil {
				// What the handshake has left in the socket is taken by a Read, as in the broker.
				_ = server.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("a Read of nothing: %v", err)
				}
			}
			for range 2 {
				_ = server.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				if err := server.Await(); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("nothing was sent: %v, want a deadline exceeded", err)
				}
				_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
				come := make(chan error, 1)
				go func() { come <- server.Await() }()
				if _, err := client.Write(way.frame("text")); err != nil {
					t.Fatal(err)
				}
				if err := <-come; err != nil {
					t.Fatal(err)
				}
				b := make([]byte, 4)
				if _, err := io.ReadFull(server, b); err != nil || string(b) != "text" {
					t.Fatalf("read %q, %v", b, err)
				}
			}
			come := make(chan error, 1)
			go func() { come <- server.Await() }()
			_ = client.Close()
			if err := <-come; err != nil {
				t.Fatalf("the client has gone: %v", err)
			}
			if _, err := server.Read(make([]byte, 1)); err == nil {
				t.Error("a Read after the end")
			}
		})
	}
}
