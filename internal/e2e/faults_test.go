package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// TestFaults breaks one thing at a time. Each gives one clear line, however often it is tried
// again, and everything else goes on.
func TestFaults(t *testing.T) {
	for _, tt := range []struct {
		name     string
		sections func(t *testing.T) []string
		words    []string // all in the line
	}{
		{"uplink down at start", func(t *testing.T) []string {
			a := newAuthority(t, "CA")
			return []string{bridge(freeAddress(t), a.file, a.valid("greenhouse"))}
		}, []string{"bridge down", "refused"}},
		{"uplink does not answer at start", func(t *testing.T) []string {
			a, line := newAuthority(t, "CA"), newLink(t, freeAddress(t))
			line.blackhole()
			return []string{bridge(line.address(), a.file, a.valid("greenhouse"))}
		}, []string{"bridge down", "no answer"}},
		{"wrong server certificate", func(t *testing.T) []string {
			c, other := newCloud(t), newAuthority(t, "other CA")
			return []string{bridge(c.address, other.file, c.valid("greenhouse"))}
		}, []string{"bridge down", "certificate"}},
		{"expired client certificate", func(t *testing.T) []string {
			c := newCloud(t)
			return []string{bridge(c.address, c.file, c.issue("greenhouse", time.Now().Add(-time.Hour)))}
		}, []string{"bridge down", "certificate", "expired"}},
		{"missing serial port", func(*testing.T) []string {
			return []string{serial("/dev/serial/by-id/usb-none-of-this-name")}
		}, []string{"usb-none-of-this-name"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t, tt.sections(t)...)
			start := time.Now()
			g.start()
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("the gateway answered after %v: it waited for what is broken", took)
			}
			eventually(t, 5*time.Second, fmt.Sprintf("a line with %q", tt.words), func() bool { return len(g.log.lines(tt.words...)) > 0 })
			g.works()
			time.Sleep(2 * time.Second) // in which many more attempts must not be told again
			g.works()
			if lines := complaints(g.log, tt.words); len(lines) != 1 {
				t.Errorf("%d lines, want one:\n%s", len(lines), strings.Join(lines, "\n"))
			} else {
				t.Log(lines[0])
			}
		})
	}
}

// complaints returns the warnings and errors that contain the words.
func complaints(log *output, words []string) []string {
	return append(log.lines(append(words, "level=warn")...), log.lines(append(words, "level=error")...)...)
}

// works checks that the local broker serves: a message at each QoS, to a subscriber.
func (g *gateway) works() {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 5*time.Second)
	defer cancel()
	got := make(chan string, 3) // as many as are sent
	c := g.connect(client.Options{Receive: func(m packet.Publish) { got <- string(m.Payload) }})
	defer c.Close()
	subscribe(g.t, c, "local/check", 2)
	for qos := range packet.QoS(3) {
		text := fmt.Sprintf("QoS %d", qos)
		if _, err := c.Publish(ctx, packet.Publish{Topic: "local/check", QoS: qos, Payload: []byte(text)}); err != nil {
			g.t.Fatalf("local %s: %v", text, err)
		}
		select {
		case payload := <-got:
			if payload != text {
				g.t.Fatalf("local: %q came, want %q", payload, text)
			}
		case <-ctx.Done():
			g.t.Fatalf("local: %s did not come", text)
		}
	}
}

// TestFullDisk fills the disk under the store. Devices get no acknowledgement for what cannot be
// kept, one line says so, the local broker goes on, and everything is taken again when there is
// room.
func TestFullDisk(t *testing.T) {
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=16m"); err != nil {
		if errors.Is(err, unix.EPERM) {
			t.Skip("only root can mount the small disk that this test fills")
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	g := newGateway(t, fmt.Sprintf("store:\n  path: %s/store.db\n", disk))
	g.start()

	ctx := t.Context()
	sleeper := g.connect(client.Options{ClientID: "sleeper", Version: packet.V5, KeepSession: true, SessionExpiry: 3600})
	subscribe(t, sleeper, "much/#", 1)
	if err := sleeper.Disconnect(ctx); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(disk, "filler")
	fill(t, filler, disk)

	device := g.connect(client.Options{ClientID: "device", Version: packet.V5, Window: 1})
	taken := 0
	big := packet.Publish{Topic: "much/data", QoS: 1, Payload: make([]byte, 64<<10)}
	var refusal *client.Error
	for refusal == nil {
		if taken > 1000 {
			t.Fatal("1000 messages of 64 KiB were acknowledged on a full disk of 16 MiB")
		}
		limited, cancel := context.WithTimeout(ctx, 10*time.Second)
		_, err := device.Publish(limited, big)
		cancel()
		if err == nil {
			taken++
		} else if !errors.As(err, &refusal) {
			t.Fatalf("after %d messages: %v, want a reason code", taken, err)
		}
	}
	t.Logf("after %d messages: %v", taken, refusal)
	eventually(t, 5*time.Second, "a line about the store", func() bool { return len(complaints(g.log, []string{"store"})) > 0 })
	g.worksWithoutStore(1)
	if lines := complaints(g.log, []string{"store"}); len(lines) != 1 {
		t.Errorf("%d lines, want one:\n%s", len(lines), strings.Join(lines, "\n"))
	} else {
		t.Log(lines[0])
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "messages are taken again", func() bool {
		limited, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err := device.Publish(limited, packet.Publish{Topic: "much/data", QoS: 1, Payload: []byte("again")})
		if err == nil {
			taken++
		}
		return err == nil
	})
	g.kill()
	g.start()
	got := make(chan int, taken+1)
	g.connect(client.Options{
		ClientID: "sleeper", Version: packet.V5, KeepSession: true, SessionExpiry: 3600,
		Receive: func(m packet.Publish) { got <- len(m.Payload) },
	})
	eventually(t, 10*time.Second, "all that was acknowledged comes", func() bool { return len(got) >= taken })
}

// fill writes a file that leaves 1 MiB of the disk.
func fill(t *testing.T, name, disk string) {
	t.Helper()
	var free unix.Statfs_t
	if err := unix.Statfs(disk, &free); err != nil {
		t.Fatal(err)
	}
	size := int64(free.Bavail)*int64(free.Bsize) - 1<<20
	if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
}

// worksWithoutStore checks that what needs no disk is served.
func (g *gateway) worksWithoutStore(qos packet.QoS) {
	g.t.Helper()
	got := make(chan struct{}, 1) // one message is sent
	c := g.connect(client.Options{Receive: func(packet.Publish) { got <- struct{}{} }})
	defer c.Close()
	subscribe(g.t, c, "local/check", 0)
	if _, err := c.Publish(g.t.Context(), packet.Publish{Topic: "local/check", QoS: qos}); err != nil {
		g.t.Fatalf("local: %v", err)
	}
	select {
	case <-got:
	case <-time.After(5 * time.Second):
		g.t.Fatal("local: the message did not come")
	}
}
