package bridge

import (
	"strings"
	"testing"

	"gateway/broker/packet"
)

func TestMapping(t *testing.T) {
	rs := rules{
		{Direction: Out, Filter: "alarm/#", LocalPrefix: "house/", RemotePrefix: "site/7/", QoS: 2},
		{Direction: Out, Filter: "house/+/temp", QoS: 1},
		{Direction: In, Filter: "#", LocalPrefix: "cmd/", RemotePrefix: "site/7/cmd/"},
		{Direction: Out, Filter: "#", RemotePrefix: "all/"},
	}
	if err := rs.check(false); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		local, remote string
		qos           packet.QoS
		ok            bool
	}{
		{"house/alarm/fire", "site/7/alarm/fire", 2, true},
		{"house/alarm", "site/7/alarm", 2, true}, // # includes the parent level
		{"house/a/temp", "house/a/temp", 1, true},
		{"other", "all/other", 0, true},
		{"$SYS/broker/uptime", "", 0, false}, // [MQTT-4.7.2-1]
	} {
		if rule, remote, ok := rs.out(tt.local); remote != tt.remote || rule.QoS != tt.qos || ok != tt.ok {
			t.Errorf("out %q: %q, QoS %d, %t; want %q, QoS %d, %t", tt.local, remote, rule.QoS, ok, tt.remote, tt.qos, tt.ok)
		}
	}
	if _, _, ok := rs.out("long/" + strings.Repeat("x", 65_530)); ok {
		t.Error("a topic that gets longer than 65,535 bytes is mapped")
	}
	for _, tt := range []struct {
		remote, local string
		ok            bool
	}{
		{"site/7/cmd/a/set", "cmd/a/set", true},
		{"site/7/cmd", "", false}, // matches the filter, but has no prefix to take away
		{"site/8/cmd/a", "", false},
		{"house/a/temp", "", false}, // an outgoing rule is not an incoming one
	} {
		if local, ok := rs.in(tt.remote); ok != tt.ok || ok && local != tt.local {
			t.Errorf("in %q: %q, %t; want %q, %t", tt.remote, local, ok, tt.local, tt.ok)
		}
	}
}

// The cloud cannot reach the gateway's own topics by a prefix that is taken away.
func TestNothingOfTheGatewayComesIn(t *testing.T) {
	rs := rules{{Direction: Both, Filter: "#", RemotePrefix: "site/"}, {Direction: In, Filter: "+/v1", RemotePrefix: "x/"}}
	if err := rs.check(true); err != nil {
		t.Fatal(err)
	}
	for _, remote := range []string{"site/$CONTROL/bans/v1", "site/$SYS/broker/uptime", "site/$dead/a", "x/$CONTROL/v1"} {
		if local, ok := rs.in(remote); ok {
			t.Errorf("%q comes in as %q", remote, local)
		}
	}
	if local, ok := rs.in("site/a$/b"); !ok || local != "a$/b" {
		t.Errorf("a$/b comes in as %q, %t", local, ok)
	}
}

func TestSubscriptions(t *testing.T) {
	rs := rules{
		{Direction: Both, Filter: "a/#", LocalPrefix: "l/", RemotePrefix: "r/", QoS: 1},
		{Direction: Out, Filter: "a/#", LocalPrefix: "l/", RemotePrefix: "x/", QoS: 2}, // the first one counts
		{Direction: In, Filter: "b", LocalPrefix: "l/"},
	}
	for d, want := range map[Direction]string{Out: "l/a/#:1", In: "r/a/#:1 b:0"} {
		var got []string
		for _, s := range rs.subscriptions(d) {
			got = append(got, s.Filter+":"+string('0'+byte(s.QoS)))
			if !s.NoLocal || !s.RetainAsPublished || s.RetainHandling != 1 {
				t.Errorf("%s: %+v would echo, or lose the retain flag, or repeat retained messages", d, s)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", d, got, want)
		}
	}
}

// A response topic is mapped so that the answer comes back by a rule of the other direction, or stays
// as it is.
func TestAnswers(t *testing.T) {
	rs := rules{
		{Direction: Out, Filter: "answer/#", LocalPrefix: "hall/", RemotePrefix: "site7/"},
		{Direction: In, Filter: "reply/+", LocalPrefix: "hall/", RemotePrefix: "site7/"},
		{Direction: In, Filter: "reply/#", LocalPrefix: "other/", RemotePrefix: "site7/"},
		{Direction: Out, Filter: "#", LocalPrefix: "$SYS/", RemotePrefix: "sys/"},
		{Direction: Both, Filter: "chat/#", RemotePrefix: "all/"},
	}
	for _, tt := range []struct{ local, remote string }{
		{"hall/reply/a", "site7/reply/a"},
		{"other/reply/a/b", "site7/reply/a/b"},
		{"other/reply/a", "other/reply/a"}, // the rule before would bring it to hall/
		{"hall/answer/a", "hall/answer/a"}, // no rule brings it down
		{"chat/a", "all/chat/a"},
		{"hall/reply/+", "hall/reply/+"}, // no topic name
		{"", ""},
	} {
		if got := rs.answerUp(tt.local); got != tt.remote {
			t.Errorf("%q becomes %q in the cloud, want %q", tt.local, got, tt.remote)
		}
	}
	for _, tt := range []struct{ remote, local string }{
		{"site7/answer/a", "hall/answer/a"},
		{"all/chat/a", "chat/a"},
		{"site7/reply/a", "site7/reply/a"}, // no rule brings it up
		{"sys/a", "sys/a"},                 // the gateway's own
		{"site7/answer/#", "site7/answer/#"},
		{"", ""},
	} {
		if got := rs.answerDown(tt.remote); got != tt.local {
			t.Errorf("%q becomes %q here, want %q", tt.remote, got, tt.local)
		}
	}
}

// All problems are reported at once, and each says what to do.
func TestConfigProblems(t *testing.T) {
	_, err := New(Config{
		Name: "a/b", URLs: []string{"http://cloud"}, Password: "secret", Window: 40_000, KeepAlive: 1500 * 1e6,
		StateTopic: "state/+",
		Rules: []Rule{
			{Filter: "a", QoS: 1},
			{Direction: Out, Filter: "a", QoS: 3},
			{Direction: Out, Filter: "a", LocalPrefix: "+/"},
			{Direction: Out, Filter: "a/#/b"},
			{Direction: Out, Filter: "$share/g/a"},
			{Direction: In, Filter: "a", LocalPrefix: "$SYS/"},
		},
	})
	if err == nil {
		t.Fatal("a configuration without one right setting is accepted")
	}
	for _, want := range []string{
		`scheme "http" is not known, use mqtt, mqtts, ws or wss`, `name "a/b"`, "client_id is missing", "password without username",
		"keep_alive: whole seconds", "window: from 1 to 1024, not 40000", "no way to open", "state topic: topic name contains a wildcard",
		`rule 1 (direction 0 "a"): direction must be`, "rule 2", "QoS 3 does not exist", "rule 3", "put them into the filter",
		"rule 4", "# is not the last level", "rule 5", "cannot share", "rule 6", "belong to the broker",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
}

// A rule for both directions lets the cloud send back what it was sent, unless it knows that
// we are a bridge.
func TestEcho(t *testing.T) {
	rs := rules{{Direction: Both, Filter: "#", RemotePrefix: "site/"}}
	if err := rs.check(false); err == nil || !strings.Contains(err.Error(), "send back what the bridge sends") {
		t.Errorf("an echo is not noticed: %v", err)
	}
	if err := rs.check(true); err != nil {
		t.Error(err)
	}
}

func TestTarget(t *testing.T) {
	for _, tt := range []struct {
		in, address string
		secure      bool
		problem     string
	}{
		{in: "mqtt://cloud.example.org", address: "cloud.example.org:1883"},
		{in: "tcp://10.0.0.1:1884", address: "10.0.0.1:1884"},
		{in: "mqtts://cloud.example.org", address: "cloud.example.org:8883", secure: true},
		{in: "ssl://[2001:db8::1]/", address: "[2001:db8::1]:8883", secure: true},
		{in: "tls://c:1", address: "c:1", secure: true},
		{in: "ws://c", address: "c:80"},
		{in: "wss://c/path?a=b", address: "c:443", secure: true},
		{in: "cloud.example.org:1883", problem: "use mqtt, mqtts, ws or wss"},
		{in: "mqtt://", problem: "host is missing"},
		{in: "mqtt://u:secret@c", problem: "settings of their own"},
		{in: "mqtt://c/path", problem: "nothing may follow the port"},
		{in: "mqtt://u:secret@c:port", problem: "url: invalid port"},
	} {
		got, err := parseTarget(tt.in)
		switch {
		case tt.problem != "":
			if err == nil || !strings.Contains(err.Error(), tt.problem) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s: error %v, want %q and no password", tt.in, err, tt.problem)
			}
		case err != nil || got.address() != tt.address || got.secure != tt.secure:
			t.Errorf("%s: %+v, %v", tt.in, got, err)
		}
	}
}
