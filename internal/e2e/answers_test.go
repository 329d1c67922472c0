package e2e

import (
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"gateway/broker/auth/totp"
	"gateway/broker/packet"
	"gateway/internal/client"
)

// conditions are the states that a client can be in, or what decides about it. Each way to log in has a
// row for each, or says why it has none.
var conditions = []string{"right", "wrong", "unknown", "expired", "revoked", "banned", "no name", "no secret", "neither", "service down", "service slow", "service garbage"}

// An answered is a row of the table: what a client shows, and what it is answered.
type answered struct {
	condition string
	guest     guest
	v5, v3    string // the reason code of CONNACK, or how the connection ends without one
	none      string // instead of them: why there is no such row
}

// A mechanism is one way to log in.
type mechanism struct {
	name string
	urls map[string]string // by transport
	no   map[string]string // transports that it does not have, and why
	rows []answered
}

// The answers in MQTT 5.0 and 3.1.1.
const (
	in                          = "00"
	bad5, not5, later5, banned5 = "86", "87", "88", "8a"
	bad3, not3, later3          = "04", "05", "03" // 3.1.1 has none for who is banned: it is not authorized
	closed                      = "closed"
)

// TestAnswers holds every way to log in, in every condition, with MQTT 3.1.1 and 5.0, over TCP, TLS and
// WSS, to its answer, byte for byte to the end of the connection.
func TestAnswers(t *testing.T) {
	l := fullLobby(t)
	all := slices.Concat(l.methods(), l.passwords(), l.others())
	for _, m := range all {
		m.settle(t, l.roots)
	}
	for _, m := range all {
		t.Run(m.name, func(t *testing.T) { m.hold(t, l.roots) })
	}
	if lines := l.log.lines("pencil"); len(lines) > 0 {
		t.Errorf("the log has a password: %s", lines[0])
	}
}

// TestServiceAnswers is the part of the table for an HTTP service, a process of its own, that answers as one
// for NanoMQ and as one for EMQX.
func TestServiceAnswers(t *testing.T) {
	for name, json := range map[string]bool{"NanoMQ": false, "EMQX": true} {
		t.Run(name, func(t *testing.T) {
			r := newRemote(t, json)
			l := newLobby(t, map[string]string{"http": "auth: http"}, "auth:\n"+r.section())
			l.start()
			r.revoke("revoked")
			l.ban("user:banned")
			as := func(user, password string) guest { return guest{user: user, password: password} }
			m := mechanism{urls: l.urls["http"], rows: []answered{
				{condition: "right", guest: as("right", "pencil"), v5: in, v3: in},
				{condition: "wrong", guest: as("right", "pen"), v5: bad5, v3: bad3},
				{condition: "unknown", guest: as("unknown", "pencil"), v5: bad5, v3: bad3},
				{condition: "expired", guest: as("expired", "pencil"), v5: bad5, v3: bad3},
				{condition: "revoked", guest: as("revoked", "pencil"), v5: bad5, v3: bad3},
				{condition: "banned", guest: as("banned", "pencil"), v5: banned5, v3: not3},
				{condition: "no name", guest: guest{noName: true, password: "pencil"}, v5: bad5, v3: closed},
				{condition: "no secret", guest: guest{user: "right", noSecret: true}, v5: bad5, v3: bad3},
				{condition: "neither", guest: guest{noName: true, noSecret: true}, v5: bad5, v3: bad3},
			}}
			if !json {
				m.rows[3] = answered{condition: "expired", none: "a status does not say until when"}
			}
			m.settle(t, l.roots)
			m.hold(t, l.roots, "service down", "service slow", "service garbage")
			// A gateway that has seen its service fail asks it now and then only: each trouble meets a new one.
			for _, tt := range []struct {
				condition, user string
				begin, end      func()
			}{
				{"service garbage", "garbage", func() {}, func() {}},
				{"service slow", "right", r.stop, r.proceed},
				{"service down", "right", r.kill, func() {}},
			} {
				l.kill()
				tt.begin()
				l.start()
				m.rows = []answered{{condition: tt.condition, guest: as(tt.user, "pencil"), v5: later5, v3: later3}}
				m.hold(t, l.roots, conditions...)
				tt.end()
			}
		})
	}
}

// settle waits until what was changed while the gateway runs is in force, within a second or so. Until then who
// is about to be let in may have to come again.
func (m *mechanism) settle(t *testing.T, roots *x509.CertPool) {
	for _, r := range m.rows {
		if r.none != "" || !slices.Contains([]string{"expired", "revoked", "banned"}, r.condition) {
			continue
		}
		eventually(t, 10*time.Second, m.name+": "+r.condition, func() bool {
			got, exact := ask(t, m.urls["TLS"], "TLS", roots, packet.V5, r.guest, r.v5)
			return got == exact
		})
	}
}

// hold goes through the rows. Others than these conditions have to be there.
func (m *mechanism) hold(t *testing.T, roots *x509.CertPool, elsewhere ...string) {
	for _, r := range m.rows {
		if r.none != "" {
			t.Logf("%s: none: %s", r.condition, r.none)
			continue
		}
		elsewhere = append(elsewhere, r.condition)
		for _, transport := range []string{"TCP", "TLS", "WSS"} {
			if why := m.no[transport]; why != "" {
				t.Logf("%s, %s: none: %s", r.condition, transport, why)
				continue
			}
			for version, want := range map[packet.Version]string{packet.V5: r.v5, packet.V311: r.v3} {
				got, exact := ask(t, m.urls[transport], transport, roots, version, r.guest, want)
				if got != exact {
					t.Errorf("%s, %s, version %d: got\n%s, want %s:\n%s", r.condition, transport, version, got, want, exact)
				}
			}
		}
	}
	for _, c := range conditions {
		if !slices.Contains(elsewhere, c) && !slices.ContainsFunc(m.rows, func(r answered) bool { return r.condition == c }) {
			t.Errorf("there is no row for %q", c)
		}
	}
}

// alone are the rows of what asks nobody else.
var alone = []answered{
	{condition: "service down", none: "no service is asked"},
	{condition: "service slow", none: "no service is asked"},
	{condition: "service garbage", none: "no service is asked"},
}

// passwords are the ways with a user name and a password: files of each kind of hash, and devices.
func (l *lobby) passwords() (all []mechanism) {
	both := func(condition string, g guest, v5, v3 string) answered {
		return answered{condition: condition, guest: g, v5: v5, v3: v3}
	}
	for _, kind := range hashKinds {
		as := func(user, password string) guest { return guest{user: kind + "-" + user, password: password} }
		all = append(all, mechanism{name: "passwords, " + kind, urls: l.urls["passwords"], rows: append([]answered{
			both("right", as("right", "pencil"), in, in),
			both("wrong", as("right", "Pencil"), bad5, bad3),
			both("unknown", as("unknown", "pencil"), bad5, bad3),
			{condition: "expired", none: "a line of the file has no end"},
			both("revoked", as("revoked", "pencil"), bad5, bad3),
			both("banned", as("banned", "pencil"), banned5, not3),
			both("no name", guest{noName: true, password: "pencil"}, bad5, closed), // [MQTT-3.1.2-22] of 3.1.1
			both("no secret", guest{user: kind + "-right", noSecret: true}, bad5, bad3),
			both("neither", guest{noName: true, noSecret: true}, bad5, bad3),
		}, alone...)})
	}
	as := func(name string) guest { return guest{user: name, password: l.secrets[name]} }
	return append(all, mechanism{name: "devices", urls: l.urls["device"], rows: append([]answered{
		both("right", as("right"), in, in),
		both("wrong", guest{user: "right", password: "pencil"}, bad5, bad3),
		both("another's", guest{user: "right", password: l.secrets["disabled"]}, bad5, bad3),
		both("unknown", guest{user: "unknown", password: l.secrets["right"]}, bad5, bad3),
		both("expired", as("expired"), not5, not3),
		both("revoked", as("revoked"), bad5, bad3),
		both("revoked, disabled", as("disabled"), banned5, not3),
		both("banned", as("banned"), banned5, not3),
		both("other client identifier", as("bound"), not5, not3),
		both("other address", as("there"), not5, not3),
		both("no name", guest{noName: true, password: l.secrets["right"]}, bad5, closed),
		both("no secret", guest{user: "right", noSecret: true}, bad5, bad3),
		both("neither", guest{noName: true, noSecret: true}, bad5, bad3),
	}, alone...)})
}

// others are the ways with certificates, and with nothing.
func (l *lobby) others() []mechanism {
	both := func(condition, name, v5, v3 string) answered {
		return answered{condition: condition, guest: guest{noName: true, noSecret: true, pair: l.pairs[name]}, v5: v5, v3: v3}
	}
	certificates := func(name, absent5, absent3 string) mechanism {
		return mechanism{name: name, urls: l.urls[name], no: map[string]string{"TCP": "without TLS there are no certificates"}, rows: append([]answered{
			both("right", "right", in, in),
			both("wrong", "wrong", "tls: unknown certificate authority", "tls: unknown certificate authority"),
			{condition: "unknown", none: "the gateway knows whom its authority has signed"},
			both("expired", "expired", "tls: expired certificate", "tls: expired certificate"),
			both("revoked", "revoked", "tls: bad certificate", "tls: bad certificate"),
			both("banned", "banned", banned5, not3),
			both("no name", "nameless", not5, not3),
			{condition: "no secret", none: "TLS shows no certificate without its key"},
			both("neither", "", absent5, absent3),
		}, alone...)}
	}
	nobody := mechanism{name: "anonymous", urls: l.urls["anonymous"], rows: []answered{
		both("right", "", in, in),
		{condition: "name and secret", guest: guest{user: "somebody", password: "pencil"}, v5: in, v3: in},
		{condition: "banned", guest: guest{id: "banned", noName: true, noSecret: true}, v5: banned5, v3: not3},
	}}
	for _, c := range conditions {
		if c != "right" && c != "banned" {
			nobody.rows = append(nobody.rows, answered{condition: c, none: "nobody shows anything, and nobody is asked"})
		}
	}
	return []mechanism{
		certificates("certificate", "tls: certificate required", "tls: certificate required"),
		certificates("certificate asked", bad5, bad3), nobody,
	}
}

// methods are the ways of enhanced authentication. A client of 3.1.1 cannot use them: it shows a user name
// and a password, which nobody takes here.
func (l *lobby) methods() (all []mechanism) {
	row := func(condition string, g guest, v5 string) answered {
		r := answered{condition: condition, guest: g, v5: v5, v3: bad3}
		if condition == "banned" {
			r.v3 = not3
		}
		return r
	}
	for _, method := range scramMethods {
		says := func(first, then string) guest {
			return guest{user: "x", prover: func(string) client.Prover {
				return &script{method, []byte(first), func([]byte) []byte { return []byte(then) }}
			}}
		}
		all = append(all, mechanism{name: method, urls: l.urls["methods"], rows: append([]answered{
			row("right", l.scram(method, "right", "pencil"), in),
			row("wrong", l.scram(method, "right", "pen"), not5),
			row("unknown", l.scram(method, "unknown", "pencil"), not5),
			row("expired", l.scram(method, "expired", "pencil"), not5),
			row("revoked", l.scram(method, "revoked", "pencil"), not5),
			row("banned", l.scram(method, "banned", "pencil"), banned5),
			row("no name", says("n,,n=,r=abc", ""), not5),
			row("no secret", says("n,,n=right,r=abc", "c=biws,r=abc"), not5),
			row("neither", says("", ""), not5),
		}, alone...)})
	}
	// Codes of the time before the start do not count.
	now, past := time.Now().Add(30*time.Second), time.Now().Add(-time.Hour)
	return append(all, mechanism{name: totp.Name, urls: l.urls["methods"], rows: append([]answered{
		row("right", l.code("code-", "pencil", now), in),
		row("right code again", l.code("code-", "pencil", now), not5),
		row("wrong", l.code("code-", "pen", now), not5),
		row("unknown", l.code("unknown", "pencil", now), not5),
		row("expired", l.code("code-", "pencil", past), not5),
		row("revoked", l.code("code-revoked", "pencil", now), not5),
		row("banned", l.code("code-banned", "pencil", now), banned5),
		row("no name", l.code("", "pencil", now), not5),
		row("no secret", l.code("code-", "", now), not5),
		row("neither", l.code("", "", now), not5),
	}, alone...)})
}
