package listen_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"gateway/broker/listen"
)

// begin is how a WebSocket begins.
const begin = "GET /mqtt HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"

// frame is a WebSocket frame of a client, whose mask is zero.
func frame(first byte, payload string) string {
	return string([]byte{first, 0x80 | byte(len(payload)), 0, 0, 0, 0}) + payload
}

// FuzzFirstBytes says anything, cut into pieces anyhow, to a port that takes everything: below TLS or
// not, and after a WebSocket has begun. The connection ends with the client's, and leaves no memory.
func FuzzFirstBytes(f *testing.F) {
	for _, said := range []string{
		"", string(hello), "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "\x16", "\x10", "\x00", "GET /health HTTP/1.1\r\nHost: g\r\n\r\n",
		"GET / HTTP/1.1\r\n\r\n", "POST /api/x HTTP/1.1\r\nHost: g\r\nContent-Length: 9\r\n\r\n{}", begin + frame(0x82, string(hello)),
	} {
		f.Add(byte(0), uint16(1<<15), []byte(said))
		f.Add(byte(1), uint16(1), []byte(said))
	}
	for _, said := range []string{
		frame(0x82, string(hello)), frame(0x02, "a") + frame(0x89, "ping") + frame(0x80, "b"), frame(0x81, "text"),
		frame(0x88, "\x03\xe8"), frame(0x88, "x"), frame(0x8F, ""), "\x82\x05hello", "\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00",
		"\xc2\x80\x00\x00\x00\x00", frame(0x09, "cut"), "\x82\xfe\x00",
	} {
		f.Add(byte(2), uint16(1<<15), []byte(said))
		f.Add(byte(3), uint16(1), []byte(said))
	}
	s := newSite(f)
	s.files.ClientCA, s.files.RequireCertificate = "", false
	address := serve(f, listen.Options{Protocols: listen.MQTT | listen.WebSocket | listen.HTTP, TLS: &s.files, Plain: true}).address
	executions := 0
	f.Fuzz(func(t *testing.T, kind byte, piece uint16, said []byte) {
		if kind&2 != 0 {
			said = append([]byte(begin), said...)
		}
		babble(t, address, kind&1 != 0, said, max(int(piece), len(said)/64, 1))
		if executions++; executions%1000 == 0 {
			var m runtime.MemStats
			runtime.GC()
			if runtime.ReadMemStats(&m); m.HeapAlloc > 64<<20 {
				t.Fatalf("%d MiB in use after %d connections", m.HeapAlloc>>20, executions)
			}
		}
	})
}

// babble says something in pieces, then no more, and reads until the other side closes.
func babble(t *testing.T, address string, secure bool, said []byte, piece int) {
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	var way interface {
		io.ReadWriter
		CloseWrite() error
	} = nc.(*net.TCPConn)
	if secure {
		c := tls.Client(nc, &tls.Config{InsecureSkipVerify: true})
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		way = c
	}
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, way)
		ended <- err
	}()
	for err == nil && len(said) > 0 {
		n := min(piece, len(said))
		_, err = way.Write(said[:n])
		said = said[n:]
	}
	_ = way.CloseWrite() // the other side may have closed
	// Whoever closes while something is unread resets the connection.
	if err := <-ended; errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the connection does not end")
	}
}
