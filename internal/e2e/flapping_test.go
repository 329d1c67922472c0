package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// networkAddress returns an address of this machine by which it comes to itself as from the network, or skips the
// test.
func networkAddress(t *testing.T) net.IP {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			return n.IP
		}
	}
	t.Skip("this machine has no address but the loopback, from which connections are not counted")
	return nil
}

// TestFlapping holds off a client that connects again and again, whichever version it speaks, and nobody else. When
// it has been held off for a while it comes in again.
func TestFlapping(t *testing.T) {
	ip := networkAddress(t)
	_, port, err := net.SplitHostPort(freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	const most = 5
	g := newGateway(t, fmt.Sprintf("  - {name: network, address: %q, anonymous: true}\nlimits: {client_connects: %d}\n", net.JoinHostPort(ip.String(), port), most))
	g.start()
	url := "mqtt://" + net.JoinHostPort(ip.String(), port)
	enter := func(id string, v packet.Version) packet.ReasonCode {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := client.Dial(ctx, url, client.Options{Version: v, ClientID: id})
		if e, ok := errors.AsType[*client.Error](err); ok {
			return e.Reason
		}
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		return packet.Success
	}
	began := time.Now()
	for n := range most + 1 {
		if reason := enter("flapping", packet.V5); reason != packet.Success {
			t.Fatalf("connection %d: %s", n+1, reason)
		}
	}
	for v, want := range map[packet.Version]packet.ReasonCode{packet.V5: packet.ConnectionRateExceeded, packet.V311: packet.ServerUnavailable} {
		if reason := enter("flapping", v); reason != want {
			t.Errorf("held off, version %d: %s, want %s", v, reason, want)
		}
	}
	if reason := enter("steady", packet.V5); reason != packet.Success {
		t.Errorf("another client from there: %s", reason)
	}
	eventually(t, time.Minute, "the client comes in again", func() bool { return enter("flapping", packet.V5) == packet.Success })
	if held := time.Since(began); held < 9*time.Second {
		t.Errorf("held off for %v, want 10 s", held)
	}
}
