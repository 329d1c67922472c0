package listen_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"gateway/broker/listen"
)

// get sends bytes over a plain or secured connection and returns the first line of the answer.
func get(t *testing.T, nc net.Conn, request string) (line string) {
	t.Helper()
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(nc, request); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(nc).ReadString('\n')
	if err != nil {
		return "closed"
	}
	return strings.TrimSpace(line)
}

// raw opens the connection below HTTP.
func (e *echo) raw(config *tls.Config) net.Conn {
	e.t.Helper()
	if config == nil {
		return e.connect("mqtt", nil)
	}
	return e.connect("mqtts", config)
}

// TestOnePort takes everything on one port, and only what it is told to on others.
func TestOnePort(t *testing.T) {
	s := newSite(t)
	const all = listen.MQTT | listen.WebSocket | listen.HTTP
	for _, takes := range []listen.Protocols{
		listen.MQTT, listen.WebSocket, listen.HTTP, listen.MQTT | listen.WebSocket, listen.MQTT | listen.HTTP, listen.WebSocket | listen.HTTP, all,
	} {
		for _, security := range []string{"plain", "tls", "both"} {
			t.Run(fmt.Sprintf("%03b/%s", takes, security), func(t *testing.T) {
				o := listen.Options{Protocols: takes, Plain: security == "both"}
				if security != "plain" {
					o.TLS = &s.files
				}
				e := serve(t, o)
				for _, secure := range []bool{false, true} {
					taken := security == "both" || secure == (security == "tls")
					var config *tls.Config
					schemes := []string{"mqtt", "ws"}
					if secure {
						config = s.client("thermometer")
						schemes = []string{"mqtts", "wss"}
					}
					for i, p := range []listen.Protocols{listen.MQTT, listen.WebSocket} {
						nc, err := e.dial(schemes[i], config)
						if err == nil {
							err = exchanged(nc, hello)
						}
						if want := taken && takes&p != 0; (err == nil) != want {
							t.Errorf("%s: %v, want it taken = %t", schemes[i], err, want)
						}
					}
					if secure && !taken {
						continue
					}
					line := get(t, e.raw(config), "GET /health HTTP/1.1\r\nHost: gateway\r\n\r\n")
					if want := taken && takes&listen.HTTP != 0; (line == "HTTP/1.1 200 OK") != want {
						t.Errorf("GET /health, TLS = %t: %q, want it answered = %t", secure, line, want)
					}
				}
			})
		}
	}
}

// TestHTTP answers what is no WebSocket, and shuts the door on what is no HTTP.
func TestHTTP(t *testing.T) {
	e := serve(t, listen.Options{Protocols: listen.MQTT | listen.WebSocket | listen.HTTP})
	for _, tt := range []struct{ name, request, line string }{
		{"health", "GET /health HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK"},
		{"health with POST", "POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 404 Not Found"},
		{"another page", "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 404 Not Found"},
		{"no upgrade", "GET /mqtt HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 404 Not Found"},
		{"nonsense", "GET\r\n\r\n", "HTTP/1.1 400 Bad Request"},
		{"long head", "GET /health HTTP/1.1\r\nCookie: " + strings.Repeat("x", 8<<10), "HTTP/1.1 431 Request Header Fields Too Large"},
		{"other bytes", "\x00\x01\x02", "closed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if line := get(t, e.raw(nil), tt.request); line != tt.line {
				t.Errorf("got %q, want %q", line, tt.line)
			}
		})
	}
}

// TestRequestInPieces sends a request one byte at a time.
func TestRequestInPieces(t *testing.T) {
	e := serve(t, listen.Options{Protocols: listen.MQTT | listen.HTTP})
	nc := e.raw(nil)
	_ = nc.SetDeadline(time.Now().Add(5 * time.Second))
	for _, b := range []byte("GET /health HTTP/1.1\r\nHost: gateway\r\n\r\n") {
		if _, err := nc.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if body, err := io.ReadAll(r.Body); err != nil || r.StatusCode != http.StatusOK || string(body) != "ok\n" {
		t.Errorf("%s %q, %v", r.Status, body, err)
	}
}

// TestSlowHandshakes proves that clients which say nothing, or not enough, delay no other, and are
// gone when the time for a handshake is over.
func TestSlowHandshakes(t *testing.T) {
	s := newSite(t)
	e := serve(t, listen.Options{Protocols: listen.MQTT | listen.WebSocket | listen.HTTP, TLS: &s.files, Plain: true})
	begin := time.Now()
	starts := []string{"", "\x16\x03\x01", "GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websoc", "GET "}
	for range 25 {
		for _, start := range starts {
			if _, err := io.WriteString(e.raw(nil), start); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, scheme := range []string{"mqtt", "ws"} {
		exchange(t, e.connect(scheme, nil), hello)
	}
	for _, scheme := range []string{"mqtts", "wss"} {
		exchange(t, e.connect(scheme, s.client("thermometer")), hello)
	}
	if took := time.Since(begin); took > handshakeTime {
		t.Errorf("four good clients took %v behind slow ones", took)
	}
	for range 25 * len(starts) {
		if err := e.why(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a slow client's connection ended with: %v", err)
		}
	}
}

// TestVanished looks at a port and goes.
func TestVanished(t *testing.T) {
	e := serve(t, listen.Options{Protocols: listen.MQTT | listen.HTTP})
	if err := e.raw(nil).Close(); err != nil {
		t.Fatal(err)
	}
	if err := e.why(); !errors.Is(err, io.EOF) {
		t.Errorf("ended with %v, want EOF", err)
	}
}

// TestPlainStaysPlain gives the reader the socket when the client's bytes are those on the wire.
func TestPlainStaysPlain(t *testing.T) {
	ln, err := listen.Open(t.Context(), listen.Options{Address: "127.0.0.1:0", Protocols: listen.MQTT | listen.WebSocket})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, scheme := range []string{"mqtt", "ws"} {
		dialed := make(chan net.Conn, 1)
		go func() {
			nc, err := listen.Dial(t.Context(), scheme+"://"+ln.Addr().String(), nil)
			if err == nil {
				_, err = nc.Write(hello)
			}
			if err != nil {
				t.Error(err)
			}
			dialed <- nc
		}()
		nc, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c := nc.(*listen.Conn)
		if err := c.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := syscall.Conn(c).SyscallConn(); (err == nil) != (scheme == "mqtt") {
			t.Errorf("%s: SyscallConn: %v", scheme, err)
		}
		_ = c.Close()
		_ = (<-dialed).Close()
	}
}
