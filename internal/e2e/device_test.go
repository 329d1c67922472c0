package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// A device publishes numbered messages to its own topics and outlives every gateway: its session
// goes on where the last connection broke.
type device struct {
	name    string
	version packet.Version
	address string
	pause   time.Duration // between messages
	ledger  *ledger
	session *client.Session
	known   bool // the gateway has had the session
	lost    int  // connections on which it did not know the session any more
}

// devicesOf returns a device of each version that publishes to a gateway.
func devicesOf(g *gateway, books *ledger, pause time.Duration) (devices []*device) {
	for name, version := range map[string]packet.Version{"old": packet.V311, "new": packet.V5} {
		devices = append(devices, &device{name: name, version: version, address: g.address, pause: pause, ledger: books, session: client.NewSession()})
	}
	return devices
}

// run publishes until ctx ends, and then goes on until everything is acknowledged.
func (d *device) run(ctx context.Context, limit time.Duration) error {
	for ctx.Err() == nil {
		d.visit(func(c *client.Client) { d.publish(ctx, c) })
	}
	for deadline := time.Now().Add(limit); d.session.Outstanding() > 0; {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %d messages are not acknowledged %v after the last outage", d.name, d.session.Outstanding(), limit)
		}
		d.visit(func(c *client.Client) {
			waiting, cancel := context.WithDeadline(context.Background(), deadline)
			defer cancel()
			_ = c.Wait(waiting) // the session knows what is outstanding
		})
	}
	return nil
}

// visit makes one connection, if the gateway is there.
func (d *device) visit(work func(*client.Client)) {
	c, err := d.dial()
	if err != nil {
		time.Sleep(20 * time.Millisecond) // as a device that tries again
		return
	}
	defer c.Close()
	if d.known && !c.Connack().SessionPresent {
		d.lost++
	}
	d.known = true
	work(c)
}

func (d *device) dial() (*client.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return client.Dial(ctx, "mqtt://"+d.address, client.Options{
		ClientID: d.name, Version: d.version, KeepAlive: 5, Window: 20,
		KeepSession: true, SessionExpiry: 3600, Session: d.session,
	})
}

// publish sends to two topics at QoS 1 and two at QoS 2 in turn, until ctx or the connection ends.
func (d *device) publish(ctx context.Context, c *client.Client) {
	tick := time.NewTicker(d.pause)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
		case <-c.Done():
			return
		case <-ctx.Done():
			return
		}
		qos := packet.QoS(1 + i%2)
		topic := fmt.Sprintf("up/%s/%d", d.name, i%4)
		number := d.ledger.send(topic, qos)
		m := packet.Publish{Topic: topic, QoS: qos, Payload: payload(number)}
		// A message that is not taken is one that was never acknowledged.
		_ = c.Send(ctx, m, func(code packet.ReasonCode, err error) {
			if err == nil && !code.Failed() {
				d.ledger.acknowledge(topic, number)
			}
		})
	}
}

func payload(number int) []byte {
	return fmt.Appendf(nil, "%d %s", number, strings.Repeat("x", 40+number%100))
}

// A visitor is a device without a session: mosquitto_pub, once for every message. When it ends
// well, its message was acknowledged. It must not live for the second after which it connects
// again: with a new session, its QoS 2 message would be a new one [MQTT-3.1.2-6].
type visitor struct {
	path, address string
	ledger        *ledger
}

func (v *visitor) run(ctx context.Context) {
	host, port, _ := strings.Cut(v.address, ":")
	for i := 0; ctx.Err() == nil; i++ {
		qos := packet.QoS(1 + i%2)
		topic := fmt.Sprintf("up/visitor/%d", i%2)
		number := v.ledger.send(topic, qos)
		limited, cancel := context.WithTimeout(context.Background(), 900*time.Millisecond)
		err := exec.CommandContext(limited, v.path, "-h", host, "-p", port, "-t", topic,
			"-q", fmt.Sprint(qos), "-m", string(payload(number))).Run()
		cancel()
		if err == nil {
			v.ledger.acknowledge(topic, number)
		} else {
			time.Sleep(20 * time.Millisecond) // as a person that tries again
		}
	}
}

// A port is a serial port that is played on a pseudo-terminal. Its name stays the same when it
// is unplugged and plugged in again, as those in /dev/serial/by-id do.
type port struct {
	t           *testing.T
	name        string
	near, slave *os.File
}

func newPort(t *testing.T) *port {
	p := &port{t: t, name: filepath.Join(t.TempDir(), "usb-sensor")}
	t.Cleanup(p.unplug)
	return p
}

func (p *port) plug() {
	p.t.Helper()
	near, slave, err := pty.Open()
	if err != nil {
		p.t.Fatalf("no pseudo-terminal: %v", err)
	}
	p.near, p.slave = near, slave
	// Raw, or the line would echo what it is sent. The slave stays open here, so that the near
	// side works while the gateway is away.
	state, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err == nil {
		state.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
		state.Oflag &^= unix.OPOST
		err = unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, state)
	}
	if err == nil {
		err = os.Symlink(slave.Name(), p.name)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *port) unplug() {
	if p.near == nil {
		return
	}
	_ = os.Remove(p.name)
	_ = p.slave.Close()
	_ = p.near.Close()
	p.near, p.slave = nil, nil
}

// say writes lines until ctx ends: a count, from the number given, and a text.
func (p *port) say(ctx context.Context, pause time.Duration, count int) int {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for ; ; count++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return count
		}
		_ = p.near.SetWriteDeadline(time.Now().Add(pause)) // nobody may be reading
		if _, err := fmt.Fprintf(p.near, "%d,ok\n", count); err != nil && ctx.Err() != nil {
			return count
		}
	}
}
