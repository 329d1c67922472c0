package hostile

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/listen"
	"gateway/broker/packet"
	"gateway/internal/ca"
)

// A broker that stops leaves no goroutine and no socket, whatever its clients are at: before, within
// and after the handshakes of TLS and WebSocket, within an HTTP request and within CONNECT.
func TestStop(t *testing.T) {
	authority, err := ca.Init(t.TempDir(), "test CA", ca.AuthorityLife)
	if err != nil {
		t.Fatal(err)
	}
	server, err := authority.Server([]string{"localhost", "127.0.0.1"}, ca.LeafLife)
	if err != nil {
		t.Fatal(err)
	}
	hello := packet.Connect{Version: packet.V5, ClientID: "c", CleanStart: true}
	connect := hello.Append(nil, packet.V5)
	upgrade := []byte("GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n")
	frame := append([]byte{0x82, 0x80 | byte(len(connect)), 0, 0, 0, 0}, connect...) // masked with zeros
	said := [][]byte{nil, {0x16, 3, 1}, connect[:5], connect, upgrade[:20], upgrade, append(upgrade[:len(upgrade):len(upgrade)], frame[:9]...),
		append(upgrade[:len(upgrade):len(upgrade)], frame...), []byte("GET /health HTTP/1.1\r\nHost: x\r\n\r\n")}

	before, files := runtime.NumGoroutine(), descriptors(t)
	for range 5 {
		s := start(t, small, "")
		ln, err := listen.Open(t.Context(), listen.Options{
			Name: "all", Address: "127.0.0.1:0", Protocols: listen.MQTT | listen.WebSocket | listen.HTTP, Plain: true,
			TLS: &listen.Files{Cert: server.Cert, Key: server.Key}, Log: slog.New(slog.NewTextHandler(s.log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- s.server.Serve(ln, broker.Listener{Name: "all", Auth: auth.Anonymous{}}) }()
		var clients []net.Conn
		for _, b := range said {
			for _, secure := range []bool{false, true} {
				nc, err := net.Dial("tcp", ln.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				clients = append(clients, nc)
				if secure {
					_ = nc.SetDeadline(time.Now().Add(patience))
					nc = tls.Client(nc, &tls.Config{InsecureSkipVerify: true})
				}
				if _, err := nc.Write(b); err != nil {
					t.Fatal(err)
				}
			}
		}
		begin := time.Now()
		s.stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d > 10*time.Second {
			t.Errorf("it took %v to stop", d)
		}
		for _, nc := range clients {
			_ = nc.SetReadDeadline(time.Now().Add(patience))
			for err = nil; err == nil; { // until the broker's end is closed
				_, err = nc.Read(make([]byte, 4096))
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("a connection is still open")
			}
			_ = nc.Close()
		}
	}
	eventually(t, "the goroutines are gone", func() bool { return runtime.NumGoroutine() <= before })
	eventually(t, "the sockets are closed", func() bool { return descriptors(t) <= files })
}

// descriptors returns how many files and sockets the process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}
