package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/auth/device"
	"gateway/broker/packet"
	"gateway/broker/topic"
	"gateway/config"
	"gateway/internal/client"
	"gateway/offline"
)

// believer lets everybody in under the name that it gives.
type believer struct{}

func (believer) Authenticate(_ context.Context, a auth.Attempt) (auth.Identity, error) {
	return auth.Identity{User: a.Username}, nil
}

// A lawyer makes configurations by chance.
type lawyer struct{ *rand.Rand }

func (r lawyer) one(of ...string) string { return of[r.IntN(len(of))] }

// device registers anna by chance, and returns her secret.
func (r lawyer) device(t *testing.T, dir string) (secret string) {
	if r.IntN(2) == 0 {
		return ""
	}
	d := device.Device{Name: "anna", ClientID: r.one("", "c1", "c2")}
	if r.IntN(2) == 0 {
		d.Addresses = []netip.Prefix{netip.MustParsePrefix(r.one("127.0.0.0/8", "10.0.0.0/8"))}
	}
	registry := device.Open(filepath.Join(dir, devicesFile))
	secret, err := registry.Add(d)
	if err == nil && r.IntN(4) == 0 {
		err = registry.Disable("anna")
	}
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// filter returns a filter out of a small alphabet, so that rules and requests meet.
func (r lawyer) filter() string {
	levels := make([]string, 1+r.IntN(3))
	for i := range levels {
		levels[i] = r.one("a", "b", "c1", "anna", "+", "%u", "%c", "set")
	}
	if r.IntN(3) == 0 {
		levels = append(levels, "#")
	}
	return strings.Join(levels, "/")
}

func (r lawyer) name() string {
	levels := make([]string, 1+r.IntN(3))
	for i := range levels {
		levels[i] = r.one("a", "b", "c1", "anna", "$x")
	}
	if r.IntN(3) == 0 {
		return r.one("a/set", "a/b/set", "b/set")
	}
	return strings.Join(levels, "/")
}

func (r lawyer) rule() string {
	text := fmt.Sprintf("    - {topics: [%q, %q]", r.filter(), strings.TrimSuffix(r.filter(), "/#")+"/x")
	if r.IntN(2) == 0 {
		text += ", deny: " + r.one("publish", "subscribe", "receive", "[publish, receive]")
	} else {
		text += ", allow: " + r.one("publish", "subscribe", "[publish, subscribe]", "[publish, subscribe, receive]") +
			r.one("", ", max_qos: 1", ", max_qos: 0", ", retain: false")
	}
	for _, whom := range []string{"users: [anna, ben]", `clients: "c*"`, "listeners: yard", "addresses: " + r.one("127.0.0.0/8", "10.0.0.1"), "groups: g"} {
		if r.IntN(4) == 0 {
			text += ", " + whom
		}
	}
	return text + "}\n"
}

// config writes a configuration and returns it.
func (r lawyer) config(t *testing.T, dir string) *config.Config {
	text := "gateway: {data: " + dir + "}\nboard: sim\noutputs: [{point: a, line: VENT, safe: off}, {point: a/b, line: LAMP, safe: off}]\n" +
		"listeners: [{name: yard, address: '127.0.0.1:1883', auth: device, anonymous: true" + r.one("", ", prefix: p/", ", prefix: a/") + "}]\nauth:\n" +
		"  groups: [{name: g, users: [anna]}]\n" + r.one("", "  super_users: ben\n") + r.one("", "  acl_file: acl\n")
	for i := range 1 + r.IntN(5) {
		if i == 0 {
			text += "  rules:\n"
		}
		text += r.rule()
	}
	lines := ""
	for range r.IntN(6) {
		lines += r.one("user anna\n", "user ben\n", "topic ", "pattern ")
		if !strings.HasSuffix(lines, "\n") {
			lines += r.one("", "read ", "write ", "deny ") + r.filter() + "\n"
		}
	}
	path := filepath.Join(dir, "gateway.yaml")
	for file, text := range map[string]string{path: text, filepath.Join(dir, "acl"): lines} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := config.Load(path)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return c
}

// FuzzExplain holds "gateway explain" and the broker to the same answers: for who comes in of the registered
// devices, for publications, commands among them, and subscriptions, and for the messages that reach a client.
func FuzzExplain(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := lawyer{rand.New(rand.NewPCG(seed, 0))}
		dir := t.TempDir()
		c := r.config(t, dir)
		secret := r.device(t, dir)
		log := slog.New(slog.DiscardHandler)
		store, err := offline.Open(filepath.Join(t.TempDir(), "store.db"), offline.Options{Log: log})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		server, err := broker.New(broker.Options{Store: store, Log: log, Commands: commandTopics(c)})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		a, err := openAccess(c)
		if err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		devices := device.Open(filepath.Join(dir, devicesFile)).NewLogin(log, time.Now)
		l := broker.Listener{Name: "yard", Auth: auth.Chain{devices, believer{}}, Rules: a.of(c.Listeners[0]), Prefix: c.Listeners[0].Prefix}
		served := make(chan error, 1)
		go func() { served <- server.Serve(ln, l) }()
		defer func() { server.Close(); <-served }()
		inside, err := server.Connect(broker.ClientOptions{ID: "$inside", CleanStart: true})
		if err != nil {
			t.Fatal(err)
		}
		defer inside.Close()

		for _, user := range []string{"anna", "ben", ""} {
			var mu sync.Mutex
			got := map[string]bool{}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			q := question{client: "c1", user: user, address: "127.0.0.1"}
			ask := func(action, name string) bool {
				t.Helper()
				v, _, err := q.ask(c, action, name)
				if err != nil {
					t.Fatal(err)
				}
				return v.Allowed
			}
			w, err := client.Dial(ctx, "mqtt://"+ln.Addr().String(), client.Options{ClientID: q.client, Username: user, Password: secret, Version: packet.V5, Receive: func(p packet.Publish) {
				mu.Lock()
				got[p.Topic] = true
				mu.Unlock()
			}})
			if _, refused := errors.AsType[*client.Error](err); refused && user == "anna" && secret != "" {
				for _, action := range []string{"publish", "subscribe", "receive"} {
					if ask(action, r.name()) {
						t.Errorf("a device does not come in (%v), but may %s", err, action)
					}
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			for range 10 {
				q.qos, q.retain = 1+r.IntN(2), r.IntN(3) == 0
				name := r.name()
				reason, err := w.Publish(ctx, packet.Publish{Topic: name, QoS: packet.QoS(q.qos), Retain: q.retain})
				if err != nil && !reason.Failed() {
					t.Fatal(err)
				}
				if want := ask("publish", name); want != (reason != packet.NotAuthorized) {
					t.Errorf("%q publishes %s, %+v: %v, but it is explained as %t", user, name, q, reason, want)
				}
			}
			q.qos, q.retain = r.IntN(3), false
			filter := r.one("#", "+", "a/#", "+/b", "a/b", "anna/+")
			reasons, err := w.Subscribe(ctx, packet.Subscription{Filter: filter, QoS: packet.QoS(q.qos), RetainHandling: 2})
			if err != nil {
				t.Fatal(err)
			}
			if want := ask("subscribe", filter); want != (reasons[0] != packet.NotAuthorized) {
				t.Errorf("%q subscribes to %s, %+v: %v, but it is explained as %t", user, filter, q, reasons[0], want)
			}
			names := map[string]bool{}
			for range 10 {
				name := r.name()
				names[name] = true
				inside.Publish(packet.Publish{Topic: c.Listeners[0].Prefix + name}, nil)
			}
			// Its answer comes after the messages.
			if _, err := w.Subscribe(ctx, packet.Subscription{Filter: "last", RetainHandling: 2}); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			q.qos = 0
			for name := range names {
				hidden := c.Listeners[0].Prefix != "" && name[0] == '$' // not a topic that its clients have
				want := !reasons[0].Failed() && topic.Match(filter, name) && !hidden && ask("receive", name)
				if got[name] != want {
					t.Errorf("%q receives %s by %s: %t, but it is explained as %t", user, name, filter, got[name], want)
				}
			}
			mu.Unlock()
			w.Close()
		}
	})
}
