package hostile

import (
	"bytes"
	"crypto/tls"
	"io"
	"log/slog"
	"runtime"
	"strconv"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/listen"
	"gateway/broker/packet"
	"gateway/internal/ca"
)

// Connections through TLS and WebSocket rest where plain ones do, beside their sockets: to wait within
// the libraries takes a stack twice as large. They wake up for the next packet, and rest again.
func TestRest(t *testing.T) {
	authority, err := ca.Init(t.TempDir(), "test CA", ca.AuthorityLife)
	if err != nil {
		t.Fatal(err)
	}
	server, err := authority.Server([]string{"localhost", "127.0.0.1"}, ca.LeafLife)
	if err != nil {
		t.Fatal(err)
	}
	for _, scheme := range []string{"mqtts", "ws"} {
		t.Run(scheme, func(t *testing.T) {
			const n = 10
			s := start(t, broker.Limits{Handshakes: n}, "")
			o := listen.Options{Name: scheme, Address: "127.0.0.1:0", Log: slog.New(slog.NewTextHandler(s.log, nil))}
			if scheme == "ws" {
				o.Protocols = listen.WebSocket
			} else {
				o.TLS = &listen.Files{Cert: server.Cert, Key: server.Key}
			}
			ln, err := listen.Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan error, 1)
			go func() { served <- s.server.Serve(ln, broker.Listener{Name: scheme, Auth: auth.Anonymous{}}) }()
			var all []io.ReadWriter
			for i := range n {
				nc, err := listen.Dial(t.Context(), scheme+"://"+ln.Addr().String(), &tls.Config{InsecureSkipVerify: true})
				if err != nil {
					t.Fatal(err)
				}
				defer nc.Close()
				_ = nc.SetDeadline(time.Now().Add(10 * patience))
				hello := packet.Connect{Version: packet.V311, ClientID: strconv.Itoa(i), CleanStart: true}
				ask(t, nc, hello.Append(nil, packet.V311), 4)
				ask(t, nc, []byte{0xc0, 0}, 2) // PINGREQ: a WebSocket begins to rest with a packet
				all = append(all, nc)
			}
			rest := func() bool { return bytes.Count(goroutines(), []byte("listen.(*Conn).Await(")) == n }
			eventually(t, "all connections rest", rest)
			<-time.After(time.Second) // a WebSocket rests once in this time at most
			for _, nc := range all {
				ask(t, nc, []byte{0xc0, 0}, 2)
			}
			eventually(t, "all connections rest again", rest)
			s.stop()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}

// ask sends a packet and takes the answer, of so many bytes.
func ask(t *testing.T, nc io.ReadWriter, b []byte, answer int) {
	t.Helper()
	if _, err := nc.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(nc, make([]byte, answer)); err != nil {
		t.Fatal(err)
	}
}

// goroutines returns where all of them are.
func goroutines() []byte {
	b := make([]byte, 1<<20)
	return b[:runtime.Stack(b, true)]
}
