package bridge

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gateway/broker/listen"
)

// A bridge goes to the next URL when one cannot be reached, without a pause, and returns when the
// one that it prefers can be reached again.
func TestFailoverAndReturn(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	first := ln.Addr().String()
	ln.Close() // nobody listens
	l := newLedger(t, 0)
	second := newCloud(t, l)
	config := testConfig(t, l, "mqtt://"+first)
	config.URLs = append(config.URLs, second.url())
	config.ReturnInterval = 20 * time.Millisecond
	config.BackoffMin, config.BackoffMax = time.Hour, time.Hour
	b, _ := start(t, config)
	eventually(t, "a connection to the second", func() bool {
		s := b.State()
		return s.State == Connected && s.URL == second.url()
	})
	if ln, err = net.Listen("tcp", first); err != nil {
		t.Fatal(err)
	}
	home := serveCloud(t, l, ln)
	eventually(t, "a connection to the first", func() bool {
		s := b.State()
		return s.State == Connected && s.URL == "mqtt://"+first
	})
	l.add(message("up/a", 2, 0))
	l.empty(t)
	if got := home.arrived("site/up/a"); !slices.Equal(got, []string{"0"}) {
		t.Errorf("the first got %v", got)
	}
}

// While no URL can be used, each for a reason of its own, the reason of the first is told, once.
func TestAllURLsFail(t *testing.T) {
	l := newLedger(t, 0)
	tries := make(chan struct{}, 1000)
	greet := proxyServer(t, func(conn net.Conn) (string, error) {
		conn.Read(make([]byte, 100))
		io.WriteString(conn, "\x20\x02\x00\x05") // CONNACK: not authorised
		tries <- struct{}{}
		return "", io.EOF
	})
	config := testConfig(t, l, "mqtt://127.0.0.1:1")
	config.URLs = append(config.URLs, "mqtt://"+greet)
	var told strings.Builder
	config.Log = slog.New(slog.NewTextHandler(&told, nil))
	b, stop := start(t, config)
	for range 5 {
		select {
		case <-tries:
		case <-time.After(20 * time.Second):
			t.Fatal("no try of the second URL")
		}
	}
	if s := b.State(); !strings.Contains(s.LastError, "127.0.0.1:1: connection refused") {
		t.Errorf("%+v", s)
	}
	stop()
	if n := strings.Count(told.String(), "bridge down"); n != 1 {
		t.Errorf("%d lines tell it:\n%s", n, &told)
	}
}

// The next try is at once when the routes of the machine change, and not before.
func TestNetworkReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLedger(t, 0)
		var mu sync.Mutex
		var at []time.Duration
		table := "none"
		begin := time.Now()
		_, stop := bubble(t, l, func(context.Context, int) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Since(begin))
			return nil, io.ErrUnexpectedEOF
		}, func() []byte {
			mu.Lock()
			defer mu.Unlock()
			return []byte(table)
		})
		time.Sleep(100 * time.Second) // tries at 0, 1, 3, 7, 15, 31, 63 s; the next at 123 s
		mu.Lock()
		before := len(at)
		table = "default via 192.0.2.1"
		mu.Unlock()
		time.Sleep(2 * time.Second)
		stop()
		if len(at) != before+1 || at[len(at)-1] > 102*time.Second {
			t.Errorf("tries at %v", at)
		}
	})
}

// A proxyServer passes connections on, after an exchange of its own.
func proxyServer(t *testing.T, greet func(net.Conn) (to string, err error)) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				defer conn.Close()
				to, err := greet(conn)
				if err != nil {
					return
				}
				far, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer far.Close()
				wait.Go(func() { io.Copy(far, conn); far.Close() })
				io.Copy(conn, far)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wait.Wait() })
	return ln.Addr().String()
}

func connectProxy(conn net.Conn) (string, error) {
	r, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return "", err
	}
	if user, password, _ := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth(); user != "site" || password != "secret" {
		io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
		return "", io.EOF
	}
	_, err = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	return r.Host, err
}

func socksProxy(conn net.Conn) (string, error) {
	read := func(n int) []byte {
		b := make([]byte, n)
		io.ReadFull(conn, b)
		return b
	}
	if hello := read(3); hello[0] != 5 || hello[2] != 2 {
		conn.Write([]byte{5, 0xFF})
		return "", io.EOF
	}
	conn.Write([]byte{5, 2})
	user := string(read(int(read(2)[1])))
	password := string(read(int(read(1)[0])))
	if user != "site" || password != "secret" {
		conn.Write([]byte{1, 1})
		return "", io.EOF
	}
	conn.Write([]byte{1, 0})
	host := string(read(int(read(5)[4])))
	port := binary.BigEndian.Uint16(read(2))
	conn.Write([]byte{5, 0, 0, 1, 127, 0, 0, 1, 0, 80})
	return net.JoinHostPort(host, fmt.Sprint(port)), nil
}

func TestProxies(t *testing.T) {
	for scheme, greet := range map[string]func(net.Conn) (string, error){"http": connectProxy, "socks5": socksProxy} {
		t.Run(scheme, func(t *testing.T) {
			l := newLedger(t, 0)
			c := newCloud(t, l)
			config := testConfig(t, l, c.url())
			config.Proxy = Proxy{URL: scheme + "://" + proxyServer(t, greet), Username: "site", Password: "secret"}
			_, stop := start(t, config)
			l.add(message("up/a", 1, 0))
			l.empty(t)
			stop()
			config.Proxy.Password = "wrong"
			b, _ := start(t, config)
			eventually(t, "the reason", func() bool {
				return strings.Contains(b.State().LastError, "check proxy_username and proxy_password")
			})
			if strings.Contains(b.State().LastError, "wrong") {
				t.Errorf("the state tells the password: %s", b.State().LastError)
			}
		})
	}
}

// What a proxy may answer at its worst ends the try, with bounded memory.
func TestHostileProxy(t *testing.T) {
	for _, tt := range []struct{ scheme, answer, want string }{
		{"http", strings.Repeat("x", maxProxyAnswer+1), "this is no HTTP proxy"},
		{"http", "hello\r\n\r\n", "no HTTP proxy"},
		{"http", "HTTP/1.1 401 Unauthorized\r\n\r\n", "check proxy_username"},
		{"http", "HTTP/1.1 403 Forbidden\r\n\r\n", "403 Forbidden"},
		{"socks5", "HTTP/1.1 400", "no SOCKS5 proxy"},
		{"socks5", "\x05\xff", "another authentication"},
		{"socks5", "\x05\x00\x05\x02\x00\x01\x00", "its rules do not allow it"},
		{"socks5", "", "closed the connection"},
	} {
		l := newLedger(t, 0)
		config := testConfig(t, l, "mqtt://127.0.0.1:1")
		config.Proxy.URL = tt.scheme + "://" + proxyServer(t, func(conn net.Conn) (string, error) {
			conn.Read(make([]byte, 512))
			io.WriteString(conn, tt.answer)
			time.Sleep(10 * time.Millisecond) // so that the answer is read before the end
			return "", io.EOF
		})
		b, stop := start(t, config)
		eventually(t, tt.want, func() bool { return strings.Contains(b.State().LastError, tt.want) })
		stop()
	}
}

// A WebSocket carries a bridge, with TLS and without.
func TestWebSocket(t *testing.T) {
	ca, dir := newAuthority(t, "greenhouse CA"), t.TempDir()
	certFile, keyFile := write(t, dir, "cloud", ca.issue("cloud.example.org"))
	for scheme, files := range map[string]*listen.Files{"ws://": nil, "wss://": {Cert: certFile, Key: keyFile}} {
		t.Run(scheme, func(t *testing.T) {
			ln, err := listen.Open(t.Context(), listen.Options{
				Name: "cloud", Address: "127.0.0.1:0", Protocols: listen.WebSocket, TLS: files, Log: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			l := newLedger(t, 0)
			c := serveCloud(t, l, shaken{ln})
			config := testConfig(t, l, scheme+ln.Addr().String())
			config.TLS = func() (*tls.Config, error) { return &tls.Config{RootCAs: ca.pool()}, nil }
			config.Upgrade = listen.Upgrade
			for i := range 50 {
				l.add(message("up/a", 2, i))
			}
			b, stop := start(t, config)
			defer stop() // before the listener closes
			l.empty(t)
			if got := c.arrived("site/up/a"); !slices.Equal(got, numbers(50)) {
				t.Errorf("the cloud got %v", got)
			}
			if s := b.State(); s.State != Connected || s.URL != scheme+ln.Addr().String()+"/mqtt" {
				t.Errorf("%+v", s)
			}
		})
	}
}

// Shaken accepts connections that have made their handshakes.
type shaken struct{ net.Listener }

func (s shaken) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err == nil {
		err = conn.(*listen.Conn).HandshakeContext(context.Background())
	}
	return conn, err
}
