package client

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gateway/broker/packet"
)

// TestMosquitto speaks with a broker that this project has not written.
func TestMosquitto(t *testing.T) {
	address := startMosquitto(t)
	for _, version := range []packet.Version{packet.V311, packet.V5} {
		for qos := range packet.QoS(3) {
			t.Run(fmt.Sprintf("version %d, QoS %d", version, qos), func(t *testing.T) {
				exchangeMessages(t, address, version, qos)
			})
		}
	}
}

func exchangeMessages(t *testing.T, address string, version packet.Version, qos packet.QoS) {
	const n = 1000
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var got []string
	all := make(chan struct{}) // closed with the last message
	subscriber, err := Dial(ctx, address, Options{
		Version: version, KeepAlive: 60,
		Receive: func(m packet.Publish) {
			if got = append(got, string(m.Payload)); len(got) == n {
				close(all)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer subscriber.Close()
	reasons, err := subscriber.Subscribe(ctx, packet.Subscription{Filter: "test/#", QoS: qos})
	if err != nil || !slices.Equal(reasons, []packet.ReasonCode{packet.ReasonCode(qos)}) {
		t.Fatalf("Subscribe: %v, %v", reasons, err)
	}

	publisher, err := Dial(ctx, address, Options{Version: version, Window: 20})
	if err != nil {
		t.Fatal(err)
	}
	defer publisher.Close()
	want := make([]string, n)
	for i := range want {
		want[i] = strconv.Itoa(i)
		if i%100 == 0 { // more than the reader's buffer
			want[i] += strings.Repeat(".", 2*readBuffer)
		}
		m := packet.Publish{Topic: "test/a", QoS: qos, Payload: []byte(want[i])}
		if err := publisher.Send(ctx, m, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := publisher.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if err := publisher.Disconnect(ctx); err != nil {
		t.Error(err)
	}
	select {
	case <-all:
	case <-ctx.Done():
	}
	if err := subscriber.Unsubscribe(ctx, "test/#"); err != nil {
		t.Error(err)
	}
	subscriber.Close()
	if !slices.Equal(got, want) {
		t.Errorf("%d messages came, want the %d that were sent, in order", len(got), n)
	}
}

// startMosquitto runs a broker until the test ends and returns its URL.
func startMosquitto(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		path = "/usr/sbin/mosquitto" // not in every user's PATH
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.Command(path, "-p", port)
	if err := cmd.Start(); err != nil {
		t.Skipf("mosquitto is not installed: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(5 * time.Second); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return "mqtt://" + address
		}
		if time.Now().After(deadline) {
			t.Fatalf("mosquitto does not answer: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
