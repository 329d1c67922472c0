package listen_test

import (
	"crypto/tls"
	"log/slog"
	"net"
	"testing"
	"time"

	"gateway/broker/listen"
)

// Close takes its leave of a client, but not for longer than the gateway has for stopping: one that
// takes nothing any more is left without.
func TestCloseOfOneThatTakesNothing(t *testing.T) {
	s := newSite(t)
	for _, tt := range []struct {
		name      string
		protocols listen.Protocols
	}{
		{"TLS", listen.MQTT},
		{"WebSocket and TLS", listen.WebSocket},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ln, err := listen.Open(t.Context(), listen.Options{
				Name: "test", Address: "127.0.0.1:0", TLS: &s.files, Protocols: tt.protocols, Log: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			config := s.client("device")
			config.ServerName = "localhost"
			joined := make(chan net.Conn, 1)
			go func() {
				nc, err := tls.Dial("tcp", ln.Addr().String(), config)
				if err == nil && tt.protocols == listen.WebSocket {
					_, err = nc.Write([]byte("GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
						"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"))
				}
				if err != nil {
					t.Error(err)
				}
				joined <- nc
			}()
			nc, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			c := nc.(*listen.Conn)
			if err := c.HandshakeContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			client := <-joined
			defer client.Close()

			// What the kernel takes is used up, behind the back of the connection.
			for _, size := range []int{64 << 10, 1} {
				_ = c.Conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
				for err = nil; err == nil; {
					_, err = c.Conn.Write(make([]byte, size))
				}
			}
			_ = c.SetWriteDeadline(time.Time{})
			begin := time.Now()
			_ = c.Close()
			if d := time.Since(begin); d > 3*time.Second {
				t.Errorf("Close took %v", d)
			}
		})
	}
}
