package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gateway/board/clock"
	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/auth/ban"
	"gateway/broker/auth/device"
	"gateway/broker/packet"
	"gateway/broker/topic"
	"gateway/config"
	"gateway/offline"
)

// believer lets everybody in under the name that it gives, as one of the night shift.
type believer struct{}

func (believer) Authenticate(_ context.Context, a auth.Attempt) (auth.Identity, error) {
	return auth.Identity{User: a.Username, Groups: []string{"night"}}, nil
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
	if r.IntN(3) == 0 {
		d.Addresses = []netip.Prefix{netip.MustParsePrefix(r.one("127.0.0.0/8", "10.0.0.0/8", "fe80::/10"))}
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
	for _, whom := range []string{"users: [anna, ben]", `clients: "c*"`, "listeners: " + r.one("yard", "net"), "addresses: [" + r.one("127.0.0.0/8", "10.0.0.1", "'fe80::/10'", "'2001:db8::7'", "10.0.0.0/8, 'fe80::1'") + "]", "groups: " + r.one("g", "night")} {
		if r.IntN(4) == 0 {
			text += ", " + whom
		}
	}
	return text + "}\n"
}

// bans keeps somebody out by chance.
func (r lawyer) bans(t *testing.T, dir string) {
	if r.IntN(3) > 0 {
		return
	}
	b, err := ban.Parse(r.one("user:ben", "client:c1", "pattern:c*", "address:10.0.0.0/8", "address:fe80::/10", "address:2001:db8::/64", "address:127.0.0.1"))
	if err == nil {
		err = ban.Open(filepath.Join(dir, bansFile), time.Now).Add(b)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// config writes a configuration and returns it. Its listeners are never opened: the test has others.
func (r lawyer) config(t *testing.T, dir, service string) *config.Config {
	text := "gateway: {data: " + dir + "}\nboard: sim\noutputs: [{point: a, line: VENT, safe: off}, {point: a/b, line: LAMP, safe: off}]\nlisteners:\n"
	for _, l := range [][2]string{{"yard", "127.0.0.1:1883"}, {"net", ":1884"}} {
		way := "auth: device, anonymous: true"
		if service != "" && r.IntN(2) == 0 {
			way = "auth: [device, http]"
		}
		text += fmt.Sprintf("  - {name: %s, address: %q, %s%s}\n", l[0], l[1], way, r.one("", ", prefix: p/", ", prefix: a/"))
	}
	text += "auth:\n  groups: [{name: g, users: [anna]}, {name: night, users: [nobody]}]\n" + r.one("", "  super_users: ben\n") + r.one("", "", "  acl_file: acl\n")
	if service != "" {
		text += fmt.Sprintf("  http_auth: {auth_req: {url: %q}, acl_req: {url: %q, params: {t: '%%t', a: '%%A'}}, cache_ttl: 0s, refused_ttl: 0s, on_error: %s}\n", service+"/auth", service+"/acl", r.one("deny", "next"))
	}
	for i := range r.IntN(6) {
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

// moody is a service that lets everybody in, and has an opinion about what they do that depends on the topic.
func moody(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/auth" {
		return
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(r.FormValue("t") + r.FormValue("a")))
	switch h.Sum32() % 4 {
	case 0:
		w.WriteHeader(http.StatusForbidden)
	case 1, 2:
		fmt.Fprint(w, `{"result":"ignore"}`)
	}
}

// A distant listener says that its clients come from an address.
type distant struct {
	net.Listener
	from netip.Addr
}

func (d distant) Accept() (net.Conn, error) {
	nc, err := d.Listener.Accept()
	return remote{nc, net.TCPAddrFromAddrPort(netip.AddrPortFrom(d.from, 1))}, err
}

type remote struct {
	net.Conn
	from net.Addr
}

func (r remote) RemoteAddr() net.Addr { return r.from }

// A probe is a client of MQTT 5.0 that is told why.
type probe struct {
	t   *testing.T
	nc  net.Conn
	dec packet.Decoder
	buf []byte
	got map[string]bool // topics of the messages that have come
}

// ask sends a packet and returns the answer to it, with the reason that is told: if it is none, the
// connection is closed.
func (p *probe) ask(question interface {
	Append(dst []byte, v packet.Version) []byte
}) (reason packet.ReasonCode, why string, closed bool) {
	p.t.Helper()
	if _, err := p.nc.Write(question.Append(nil, packet.V5)); err != nil {
		return 0, "", true
	}
	for {
		h, n, err := packet.ParseHeader(p.buf)
		if err != nil {
			p.t.Fatal(err)
		}
		if n == 0 || len(p.buf) < n+h.Length {
			b := make([]byte, 4096)
			k, err := p.nc.Read(b)
			if p.buf = append(p.buf, b[:k]...); err != nil {
				return 0, "", true
			}
			continue
		}
		body := p.buf[n : n+h.Length]
		p.buf = p.buf[n+h.Length:]
		switch h.Type {
		case packet.CONNACK:
			a, err := p.dec.Connack(body)
			if err != nil {
				p.t.Fatal(err)
			}
			return a.Reason, a.Properties.ReasonString, false
		case packet.PUBLISH:
			m, err := p.dec.Publish(h.Flags, body)
			if err != nil {
				p.t.Fatal(err)
			}
			p.got[m.Topic] = true
		case packet.PUBACK, packet.PUBREC, packet.PUBCOMP:
			a, err := p.dec.Ack(h.Type, body)
			if err != nil {
				p.t.Fatal(err)
			}
			if h.Type == packet.PUBREC && !a.Reason.Failed() {
				return p.ask(&packet.Ack{Type: packet.PUBREL, ID: a.ID})
			}
			return a.Reason, a.ReasonString, false
		case packet.SUBACK:
			a, err := p.dec.Suback(h.Type, body)
			if err != nil {
				p.t.Fatal(err)
			}
			return a.Reasons[0], a.ReasonString, false
		}
	}
}

// FuzzExplain holds "gateway explain" and the broker to the same answers with the same reasons: for who comes in
// of registered devices and in spite of bans, for publications, commands among them, and subscriptions, and for the
// messages that reach a client; on listeners of this machine and of the network, with and without a service.
func FuzzExplain(f *testing.F) {
	for seed := range uint64(40) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := lawyer{rand.New(rand.NewPCG(seed, 0))}
		dir, url := t.TempDir(), ""
		if r.IntN(2) == 0 {
			service := httptest.NewServer(http.HandlerFunc(moody))
			defer service.Close()
			url = service.URL
		}
		c := r.config(t, dir, url)
		secret := r.device(t, dir)
		r.bans(t, dir)
		log := slog.New(slog.DiscardHandler)
		store, err := offline.Open(filepath.Join(t.TempDir(), "store.db"), offline.Options{Log: log})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		guests := newGuestbook(c, clock.New(built()), log)
		defer guests.close()
		server, err := broker.New(broker.Options{Store: store, Log: log, Commands: commandTopics(c), Door: guests.door})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		a, err := openAccess(c)
		if err != nil {
			t.Fatal(err)
		}
		inside, err := server.Connect(broker.ClientOptions{ID: "$inside", CleanStart: true})
		if err != nil {
			t.Fatal(err)
		}
		defer inside.Close()
		for i, l := range c.Listeners {
			from := r.one("127.0.0.1", "::1", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "2001:db8::7", "192.0.2.1")
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			how := broker.Listener{Name: l.Name, Auth: auth.Chain{guests.devices, believer{}}, Rules: guests.rules(l, a), Prefix: l.Prefix}
			if slices.Contains(l.Auth, "http") {
				how.Auth = authenticator(l, a, guests)
			}
			served := make(chan error, 1)
			go func() { served <- server.Serve(distant{ln, netip.MustParseAddr(from)}, how) }()
			defer func() { server.Close(); <-served }()
			for j, user := range []string{"anna", "ben", ""} {
				q := question{client: fmt.Sprint(r.one("c", "b"), 1+j+3*i), user: user, listener: l.Name, address: from, service: true}
				if user != "anna" || secret == "" {
					q.groups = []string{"night"}
					if slices.Contains(l.Auth, "http") {
						q.groups = nil
					}
				}
				explained(t, r, c, l, &q, secret, ln.Addr().String(), inside)
			}
		}
	})
}

// explained lets a client do something by chance, and asks about each of it.
func explained(t *testing.T, r lawyer, c *config.Config, l config.Listener, q *question, secret, address string, inside *broker.Client) {
	t.Helper()
	ask := func(action, name string) auth.Verdict {
		t.Helper()
		v, note, err := q.ask(c, action, name)
		if err != nil || note != "" && action != "receive" {
			t.Fatal(note, err)
		}
		return v
	}
	same := func(what string, denied bool, why string, v auth.Verdict) {
		t.Helper()
		if denied == v.Allowed || denied && !strings.Contains(why, v.Rule) {
			t.Errorf("%s, %+v: denied %t, %q, but it is explained as %+v", what, *q, denied, why, v)
		}
	}
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	w := &probe{t: t, nc: nc, dec: packet.Decoder{Version: packet.V5}, got: make(map[string]bool)}
	connect := packet.Connect{ClientID: q.client, CleanStart: true, HasUsername: q.user != "", Username: q.user}
	connect.HasPassword, connect.Password = secret != "", []byte(secret)
	if reason, _, closed := w.ask(&connect); closed || reason.Failed() {
		for _, action := range []string{"publish", "subscribe", "receive"} {
			v := ask(action, r.name())
			banned := closed || reason == packet.Banned // an address is turned away without a word
			if v.Allowed || !strings.HasPrefix(v.Rule, "it does not come in: ") || banned != strings.Contains(v.Rule, "banned") {
				t.Errorf("%+v does not come in (%s, closed %t), but %s is explained as %+v", *q, reason, closed, action, v)
			}
		}
		return
	}
	for i := range uint16(10) {
		q.qos, q.retain = 1+r.IntN(2), r.IntN(3) == 0
		name := r.name()
		reason, why, closed := w.ask(&packet.Publish{Topic: name, QoS: packet.QoS(q.qos), Retain: q.retain, ID: i + 1})
		if closed {
			t.Fatal("the connection is closed")
		}
		same("publish "+name, reason == packet.NotAuthorized, why, ask("publish", name))
	}
	q.qos, q.retain = r.IntN(3), false
	filter := r.one("#", "+", "a/#", "+/b", "a/b", "anna/+", "$SYS/#", "$CONTROL/#")
	granted, why, _ := w.ask(&packet.Subscribe{ID: 1, Filters: []packet.Subscription{{Filter: filter, QoS: packet.QoS(q.qos), RetainHandling: 2}}})
	same("subscribe "+filter, granted == packet.NotAuthorized, why, ask("subscribe", filter))
	names := map[string]bool{}
	for range 10 {
		name := r.name()
		names[name] = true
		inside.Publish(packet.Publish{Topic: l.Prefix + name}, nil)
	}
	// Its answer comes after the messages.
	w.ask(&packet.Subscribe{ID: 2, Filters: []packet.Subscription{{Filter: "last", RetainHandling: 2}}})
	q.qos = 0
	for name := range names {
		if granted.Failed() || !topic.Match(filter, name) || l.Prefix != "" && name[0] == '$' { // not a topic that its clients have
			if w.got[name] {
				t.Errorf("%+v receives %s by %s, %s", *q, name, filter, granted)
			}
			continue
		}
		if v := ask("receive", name); w.got[name] != v.Allowed {
			t.Errorf("%+v receives %s by %s: %t, but it is explained as %+v", *q, name, filter, w.got[name], v)
		}
	}
}
