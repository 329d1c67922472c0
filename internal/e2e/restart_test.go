package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// Sessions, subscriptions, queues, retained messages and QoS 2 identifiers survive an end of
// either kind [MQTT-4.1.0-1], [MQTT-3.3.1-5], [MQTT-4.3.3-10].
func TestRestart(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(*gateway)
	}{
		{"SIGKILL", func(g *gateway) { g.kill() }},
		{"SIGINT", func(g *gateway) { g.interrupt(2 * time.Second) }},
	} {
		for _, version := range []packet.Version{packet.V311, packet.V5} {
			t.Run(fmt.Sprintf("%s, version %d", tt.name, version), func(t *testing.T) {
				t.Parallel()
				testRestart(t, version, tt.end)
			})
		}
	}
}

func testRestart(t *testing.T, version packet.Version, end func(*gateway)) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	g := newGateway(t)
	g.start()
	in := &inbox{}
	session := client.Options{
		ClientID: "sleeper", Version: version, KeepSession: true, SessionExpiry: 3600,
		Session: client.NewSession(), Receive: in.add,
	}
	sleeper := g.connect(session)
	subscribe(t, sleeper, "queue/#", 2)
	if err := sleeper.Disconnect(ctx); err != nil {
		t.Fatal(err)
	}

	device := g.connect(client.Options{ClientID: "device", Version: version})
	var want []string
	for i := range 50 {
		for qos := packet.QoS(1); qos <= 2; qos++ {
			text := fmt.Sprintf("%d at QoS %d", i, qos)
			want = append(want, text)
			if err := device.Send(ctx, packet.Publish{Topic: "queue/a", QoS: qos, Payload: []byte(text)}, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := device.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	publishRetained(t, device, "kept/a", "first")
	publishRetained(t, device, "kept/a", "last")
	publishRetained(t, device, "kept/b", "removed")
	publishRetained(t, device, "kept/b", "")
	end(g)
	g.start()

	kept := &inbox{}
	reader := g.connect(client.Options{Version: version, Receive: kept.add})
	subscribe(t, reader, "kept/#", 1)
	eventually(t, 5*time.Second, "the retained message comes", func() bool { return len(kept.texts()) > 0 })

	resumed := g.connect(session)
	if !resumed.Connack().SessionPresent {
		t.Error("the session is not there any more")
	}
	eventually(t, 10*time.Second, "the queue comes", func() bool { return len(in.texts()) >= len(want) })
	device = g.connect(client.Options{ClientID: "device", Version: version})
	if _, err := device.Publish(ctx, packet.Publish{Topic: "queue/b", QoS: 2, Payload: []byte("new")}); err != nil {
		t.Fatal(err)
	}
	want = append(want, "new") // the subscription is there, too
	eventually(t, 5*time.Second, "a new message comes", func() bool { return len(in.texts()) >= len(want) })
	if got := in.texts(); !slices.Equal(got, want) {
		t.Errorf("the queue was\n%q, want\n%q", got, want)
	}
	if got := kept.texts(); !slices.Equal(got, []string{"last"}) {
		t.Errorf("retained: %q, want only %q", got, "last")
	}
}

func publishRetained(t *testing.T, c *client.Client, topic, text string) {
	t.Helper()
	if _, err := c.Publish(t.Context(), packet.Publish{Topic: topic, QoS: 1, Retain: true, Payload: []byte(text)}); err != nil {
		t.Fatal(err)
	}
}

// An inbox keeps the payloads that came.
type inbox struct {
	mu  sync.Mutex
	got []string
}

func (i *inbox) add(m packet.Publish) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.got = append(i.got, string(m.Payload))
}

func (i *inbox) texts() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.got)
}

// A device that was killed with the gateway may send its QoS 2 PUBLISH again: it is no new
// message, before and after PUBREL [MQTT-4.3.3-10], [MQTT-4.3.3-12].
func TestReceivedSurvives(t *testing.T) {
	g := newGateway(t)
	g.start()
	in := &inbox{}
	session := client.Options{
		ClientID: "sleeper", Version: packet.V5, KeepSession: true, SessionExpiry: 3600,
		Session: client.NewSession(), Receive: in.add,
	}
	sleeper := g.connect(session)
	subscribe(t, sleeper, "once", 2)
	sleeper.Close()

	w := dialWire(t, g.address)
	message := &packet.Publish{Topic: "once", QoS: 2, ID: 7, Payload: []byte("first")}
	w.send(message)
	w.expect(packet.PUBREC, 7)
	g.kill()
	g.start()

	w = dialWire(t, g.address)
	again := *message
	again.Dup = true
	w.send(&again)
	w.expect(packet.PUBREC, 7)
	w.send(&packet.Ack{Type: packet.PUBREL, ID: 7})
	w.expect(packet.PUBCOMP, 7)
	g.kill()
	g.start()

	w = dialWire(t, g.address)
	w.send(&packet.Publish{Topic: "once", QoS: 2, ID: 7, Payload: []byte("second")})
	w.expect(packet.PUBREC, 7)
	w.send(&packet.Ack{Type: packet.PUBREL, ID: 7})
	w.expect(packet.PUBCOMP, 7)
	g.connect(session)
	want := []string{"first", "second"}
	eventually(t, 5*time.Second, "both messages come", func() bool { return len(in.texts()) >= 2 })
	if got := in.texts(); !slices.Equal(got, want) {
		t.Errorf("%q came, want %q", got, want)
	}
}

// Whatever hangs, Ctrl-C ends the gateway within two seconds: here a device that reads nothing,
// a session with a backlog, and an uplink that swallows everything.
func TestInterrupt(t *testing.T) {
	a, line := newAuthority(t, "CA"), newLink(t, freeAddress(t))
	line.blackhole()
	usb := newPort(t)
	usb.plug()
	g := newGateway(t, bridge(line.address(), a.file, a.valid("greenhouse")), serial(usb.name))
	g.start()
	stuck := make(chan struct{})
	defer close(stuck)
	slow := g.connect(client.Options{Receive: func(packet.Publish) { <-stuck }})
	subscribe(t, slow, "up/#", 1)
	device := g.connect(client.Options{})
	for range 500 {
		m := packet.Publish{Topic: "up/load", QoS: 1, Payload: make([]byte, 4096)}
		if err := device.Send(t.Context(), m, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := device.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	took, code := g.interrupt(2 * time.Second)
	if code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	t.Logf("ended %v after SIGINT", took.Round(time.Millisecond))
}

// TestSessionsKeepTheirUsers restarts the gateway between two users of one client identifier, and changes
// meanwhile what one of them may do that has left a will.
func TestSessionsKeepTheirUsers(t *testing.T) {
	h := newHall(t)
	url := h.urls["passwords TCP"]
	as := func(user, id string) client.Options {
		return client.Options{Version: packet.V5, ClientID: id, Username: user, Password: "pencil", KeepSession: true, SessionExpiry: 3600}
	}
	enter := func(o client.Options) *client.Client {
		t.Helper()
		c, reason := h.dial(t, url, o)
		if c == nil {
			t.Fatal(reason)
		}
		return c
	}
	for _, user := range []string{"anna", "ben"} {
		subscribe(t, enter(as(user, "panel of "+user)), user+"/#", 1)
		o := as(user, "will of "+user)
		o.Will = &packet.Will{Topic: user + "/will", Payload: []byte("gone"), QoS: 1}
		enter(o)
	}
	watch := &inbox{}
	o := client.Options{Version: packet.V5, ClientID: "watch", KeepSession: true, SessionExpiry: 3600, Session: client.NewSession(), Receive: watch.add}
	subscribe(t, h.connect(o), "+/will", 1)
	h.kill()
	h.write(h.aclFile, "user anna\ntopic read anna/#\n")
	h.start()
	h.connect(o)
	eventually(t, 10*time.Second, "ben's will is published", func() bool { return len(watch.texts()) == 1 })
	denied := &inbox{}
	subscribe(t, h.connect(client.Options{Version: packet.V5, Receive: denied.add}), "$SYS/broker/last_denied", 1)
	eventually(t, 10*time.Second, "anna's will is denied", func() bool {
		return strings.Contains(strings.Join(denied.texts(), ""), "anna/will")
	})
	if c, reason := h.dial(t, url, as("ben", "panel of anna")); c != nil || reason != packet.ClientIDNotValid {
		t.Errorf("ben comes as the panel of anna: %v", reason)
	}
	for _, user := range []string{"anna", "ben"} {
		if c := enter(as(user, "panel of "+user)); !c.Connack().SessionPresent {
			t.Errorf("the session of %s is gone", user)
		}
	}
	if got := watch.texts(); len(got) != 1 {
		t.Errorf("the wills that came: %q", got)
	}
}
