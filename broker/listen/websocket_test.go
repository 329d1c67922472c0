package listen_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"gateway/broker/listen"
)

// web starts a server and opens a WebSocket with another client's code.
func web(t *testing.T, o listen.Options) (*echo, *websocket.Conn) {
	t.Helper()
	o.Protocols = listen.WebSocket
	e := serve(t, o)
	ws, _, err := (&websocket.Dialer{Subprotocols: []string{"mqtt"}}).Dial("ws://"+e.address+"/mqtt", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.Close() })
	_ = ws.SetReadDeadline(time.Now().Add(10 * time.Second))
	return e, ws
}

// collect reads binary messages until n bytes have come.
func collect(t *testing.T, ws *websocket.Conn, n int) []byte {
	t.Helper()
	var got []byte
	for len(got) < n {
		kind, b, err := ws.ReadMessage()
		if err != nil {
			t.Fatalf("after %d bytes: %v", len(got), err)
		}
		if kind != websocket.BinaryMessage {
			t.Fatalf("message of type %d [MQTT-6.0.0-1]", kind)
		}
		got = append(got, b...)
	}
	return got
}

// TestBounds sends the same bytes in messages split at every place [MQTT-6.0.0-2].
func TestBounds(t *testing.T) {
	_, ws := web(t, listen.Options{})
	all := bytes.Repeat(hello, 3)
	for i := range len(all) + 1 {
		for _, part := range [][]byte{all[:i], {}, all[i:]} {
			if err := ws.WriteMessage(websocket.BinaryMessage, part); err != nil {
				t.Fatal(err)
			}
		}
		if got := collect(t, ws, len(all)); !bytes.Equal(got, all) {
			t.Fatalf("split at %d: got % x", i, got)
		}
	}
}

// TestFragments sends one message in frames of one byte, with control frames between them.
func TestFragments(t *testing.T) {
	e := serve(t, listen.Options{Protocols: listen.WebSocket})
	nc := e.raw(nil)
	upgrade(t, nc, "Sec-WebSocket-Protocol: mqtt\r\n")
	for i, b := range hello {
		opcode := byte(websocket.BinaryMessage)
		if i > 0 {
			opcode = 0 // continuation
		}
		if i == len(hello)-1 {
			opcode |= 0x80
		}
		writeFrame(t, nc, opcode, []byte{b})
		writeFrame(t, nc, 0x80|websocket.PingMessage, []byte{b})
	}
	var pongs, data []byte
	for len(pongs) < len(hello) || len(data) < len(hello) {
		switch opcode, b := readFrame(t, nc); opcode {
		case 0x80 | websocket.PongMessage:
			pongs = append(pongs, b...)
		case 0x80 | websocket.BinaryMessage:
			data = append(data, b...)
		default:
			t.Fatalf("frame %#x", opcode)
		}
	}
	if !bytes.Equal(pongs, hello) || !bytes.Equal(data, hello) {
		t.Errorf("pongs % x, data % x", pongs, data)
	}
}

// TestPongAfterSilence answers a ping though the deadline of the last write is long over.
func TestPongAfterSilence(t *testing.T) {
	accepted := make(chan *listen.Conn, 1)
	ln, err := listen.Open(t.Context(), listen.Options{Address: "127.0.0.1:0", Protocols: listen.WebSocket})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		c := nc.(*listen.Conn)
		if err := c.HandshakeContext(t.Context()); err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	ws, _, err := (&websocket.Dialer{Subprotocols: []string{"mqtt"}}).Dial("ws://"+ln.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	c := <-accepted
	defer c.Close()
	if err := c.SetWriteDeadline(time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = c.Read(make([]byte, 1))
	}()
	ponged := make(chan struct{})
	ws.SetPongHandler(func(string) error { close(ponged); return nil })
	if err := ws.WriteControl(websocket.PingMessage, []byte("?"), time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _, _ = ws.ReadMessage() }()
	select {
	case <-ponged:
	case <-time.After(5 * time.Second):
		t.Error("no pong")
	}
	_ = c.Close()
	<-ended
}

// TestRefusedFrames ends connections with the status that says why.
func TestRefusedFrames(t *testing.T) {
	for _, tt := range []struct {
		name string
		send func(*websocket.Conn) error
		code int
	}{
		{"text [MQTT-6.0.0-1]", func(ws *websocket.Conn) error { return ws.WriteMessage(websocket.TextMessage, hello) }, websocket.CloseUnsupportedData},
		{"too long", func(ws *websocket.Conn) error { return ws.WriteMessage(websocket.BinaryMessage, make([]byte, 1001)) }, websocket.CloseMessageTooBig},
		{"too long in frames", func(ws *websocket.Conn) error {
			w, err := ws.NextWriter(websocket.BinaryMessage)
			for range 1001 {
				if err == nil {
					_, err = w.Write(make([]byte, 1))
				}
			}
			return errors.Join(err, w.Close())
		}, websocket.CloseMessageTooBig},
		{"goodbye", func(ws *websocket.Conn) error {
			return ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(time.Second))
		}, websocket.CloseNormalClosure},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, ws := web(t, listen.Options{WebSocket: listen.Web{MessageSize: 1000}})
			if err := tt.send(ws); err != nil {
				t.Fatal(err)
			}
			var closed *websocket.CloseError
			for err := error(nil); closed == nil; {
				if _, _, err = ws.ReadMessage(); err != nil && !errors.As(err, &closed) {
					t.Fatalf("ended with %v, want status %d", err, tt.code)
				}
			}
			if closed.Code != tt.code {
				t.Errorf("status %d, want %d", closed.Code, tt.code)
			}
			if err := e.why(); errors.Is(err, io.EOF) != (tt.code == websocket.CloseNormalClosure) {
				t.Errorf("the server says: %v", err)
			}
		})
	}
}

// TestFarewell closes from the server's side.
func TestFarewell(t *testing.T) {
	ln, err := listen.Open(t.Context(), listen.Options{Address: "127.0.0.1:0", Protocols: listen.WebSocket})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		nc, err := ln.Accept()
		if err == nil {
			err = nc.(*listen.Conn).HandshakeContext(t.Context())
		}
		if err == nil {
			err = nc.Close()
		}
		if err != nil {
			t.Error(err)
		}
	}()
	ws, _, err := (&websocket.Dialer{Subprotocols: []string{"mqtt"}}).Dial("ws://"+ln.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("ended with %v, want status 1000", err)
	}
}

// TestUpgrade checks what a request has to say.
func TestUpgrade(t *testing.T) {
	e := serve(t, listen.Options{Protocols: listen.WebSocket, WebSocket: listen.Web{Origins: []string{"https://app.example.com", "null"}}})
	open := serve(t, listen.Options{Protocols: listen.WebSocket, WebSocket: listen.Web{Path: "/broker", Origins: []string{"*"}}})
	for _, tt := range []struct {
		name              string
		server            *echo
		path, origin      string
		subprotocols      []string
		status            int
		chosen, forbidden string
	}{
		{"program", e, "/mqtt", "", []string{"mqtt"}, 101, "mqtt", ""},
		{"root", e, "/", "", []string{"mqtt"}, 101, "mqtt", ""},
		{"query", e, "/mqtt?x=1", "", []string{"mqtt"}, 101, "mqtt", ""},
		{"3.1", e, "/mqtt", "", []string{"mqttv3.1"}, 101, "mqttv3.1", ""},
		{"several [MQTT-6.0.0-4]", e, "/mqtt", "", []string{"wamp", "mqttv3.1", "mqtt"}, 101, "mqtt", ""},
		{"other subprotocol [MQTT-6.0.0-3]", e, "/mqtt", "", []string{"wamp"}, 400, "", ""},
		{"no subprotocol [MQTT-6.0.0-3]", e, "/mqtt", "", nil, 400, "", ""},
		{"other path", e, "/ws", "", []string{"mqtt"}, 404, "", ""},
		{"own page", e, "/mqtt", "http://ADDRESS", []string{"mqtt"}, 101, "mqtt", ""},
		{"listed page", e, "/mqtt", "https://APP.example.com", []string{"mqtt"}, 101, "mqtt", ""},
		{"its unsafe twin", e, "/mqtt", "http://app.example.com", []string{"mqtt"}, 403, "", ""},
		{"a look-alike", e, "/mqtt", "https://app.example.com.evil.org", []string{"mqtt"}, 403, "", ""},
		{"a file", e, "/mqtt", "null", []string{"mqtt"}, 101, "mqtt", ""},
		{"any page", open, "/broker", "https://anything.org", []string{"mqtt"}, 101, "mqtt", ""},
		{"another path of choice", open, "/mqtt", "", []string{"mqtt"}, 404, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			header := http.Header{}
			if tt.origin != "" {
				header.Set("Origin", strings.Replace(tt.origin, "ADDRESS", tt.server.address, 1))
			}
			d := websocket.Dialer{Subprotocols: tt.subprotocols, EnableCompression: true}
			ws, response, err := d.Dial("ws://"+tt.server.address+tt.path, header)
			if response == nil {
				t.Fatal(err)
			}
			if response.StatusCode != tt.status {
				t.Errorf("status %d, want %d", response.StatusCode, tt.status)
			}
			if err != nil {
				return
			}
			defer ws.Close()
			if ws.Subprotocol() != tt.chosen {
				t.Errorf("subprotocol %q, want %q", ws.Subprotocol(), tt.chosen)
			}
			if x := response.Header.Get("Sec-WebSocket-Extensions"); x != "" {
				t.Errorf("extensions %q, want none", x)
			}
		})
	}
}

// upgrade makes a WebSocket of a connection, with the header lines given.
func upgrade(t *testing.T, nc io.ReadWriter, lines string) {
	t.Helper()
	request := "GET /mqtt HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" + lines + "\r\n"
	if _, err := io.WriteString(nc, request); err != nil {
		t.Fatal(err)
	}
	var head []byte
	for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
		b := make([]byte, 1)
		if _, err := io.ReadFull(nc, b); err != nil {
			t.Fatal(err)
		}
		head = append(head, b...)
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 101 ")) {
		t.Fatalf("answer: %s", head)
	}
}

// writeFrame writes a short frame as a client does, with a mask that changes nothing.
func writeFrame(t *testing.T, w io.Writer, opcode byte, data []byte) {
	t.Helper()
	frame := append([]byte{opcode, 0x80 | byte(len(data)), 0, 0, 0, 0}, data...)
	if _, err := w.Write(frame); err != nil {
		t.Fatal(err)
	}
}

// readFrame reads a frame of a server.
func readFrame(t *testing.T, r io.Reader) (opcode byte, data []byte) {
	t.Helper()
	var head struct{ Opcode, Length byte }
	if err := binary.Read(r, binary.BigEndian, &head); err != nil {
		t.Fatal(err)
	}
	data = make([]byte, head.Length)
	if _, err := io.ReadFull(r, data); err != nil {
		t.Fatal(err)
	}
	return head.Opcode, data
}
