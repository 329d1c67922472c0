package e2e

import (
	"bufio"
	"io"
	"net"
	"testing"
	"time"

	"gateway/broker/packet"
)

// A wire is a device of which the test sends every packet itself.
type wire struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

// dialWire connects the persistent session "wire" with MQTT 3.1.1.
func dialWire(t *testing.T, address string) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t, conn: conn, in: bufio.NewReader(conn)}
	w.send(&packet.Connect{Version: packet.V311, ClientID: "wire"})
	if h, _ := w.next(); h.Type != packet.CONNACK {
		t.Fatalf("the gateway answered with %v", h.Type)
	}
	return w
}

func (w *wire) send(p interface {
	Append(dst []byte, v packet.Version) []byte
}) {
	w.t.Helper()
	if _, err := w.conn.Write(p.Append(nil, packet.V311)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) expect(kind packet.Type, id uint16) {
	w.t.Helper()
	h, body := w.next()
	if h.Type != kind {
		w.t.Fatalf("the gateway sent %v, want %v %d", h.Type, kind, id)
	}
	ack, err := (&packet.Decoder{Version: packet.V311}).Ack(h.Type, body)
	if err != nil || ack.ID != id {
		w.t.Fatalf("the gateway sent %v %d, err = %v, want %v %d", h.Type, ack.ID, err, kind, id)
	}
}

// next reads one packet.
func (w *wire) next() (packet.Header, []byte) {
	w.t.Helper()
	var header []byte
	for {
		b, err := w.in.ReadByte()
		if err != nil {
			w.t.Fatalf("the gateway closed the connection: %v", err)
		}
		header = append(header, b)
		h, n, err := packet.ParseHeader(header)
		if err != nil {
			w.t.Fatal(err)
		}
		if n > 0 {
			body := make([]byte, h.Length)
			if _, err := io.ReadFull(w.in, body); err != nil {
				w.t.Fatal(err)
			}
			return h, body
		}
	}
}
