package acl_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/broker/auth"
	"gateway/broker/auth/acl"
	"gateway/broker/topic"
)

var (
	publish   = []auth.Action{auth.Publish}
	subscribe = []auth.Action{auth.Subscribe}
	receive   = []auth.Action{auth.Receive}
)

func anna() auth.Client {
	return auth.Client{
		Identity: auth.Identity{User: "anna", Groups: []string{"night"}}, ID: "panel-7", Listener: "lan", Addr: netip.MustParseAddr("192.168.7.9"),
		Certificate: &x509.Certificate{Subject: pkix.Name{OrganizationalUnit: []string{"field", "office"}}, DNSNames: []string{"panel.example"}},
	}
}

// Nobody gets around a rule that denies by a name that a rule which allows does not fit.
func TestDenyFitsEveryName(t *testing.T) {
	law := acl.Law{Rules: []acl.Rule{
		{Place: "test:1", Actions: []auth.Action{auth.Publish, auth.Subscribe}, Topics: []string{"own/%c/set", "%u/set"}, MaxQoS: 2},
		{Place: "test:2", Allow: true, Actions: []auth.Action{auth.Publish, auth.Subscribe}, Topics: []string{"#", "$x/#"}, MaxQoS: 2},
	}}.Prepare()
	for _, tt := range []struct {
		user, id string
		action   auth.Action
		topic    string
		allowed  bool
	}{
		{"", "panel", auth.Publish, "own/panel/set", false},
		{"", "panel", auth.Publish, "own/other/set", true},
		{"", "a/b", auth.Publish, "own/a/b/set", false},
		{"", "a/b", auth.Subscribe, "own/#", false},
		{"", "+", auth.Publish, "own/other/set", false},
		{"", "a+b", auth.Publish, "own/a/set", true},
		{"", "#", auth.Subscribe, "own/#", false},
		{"$x", "", auth.Publish, "$x/set", false},
		{"", "", auth.Publish, "own//set", true}, // without a name there is nothing of one's own
	} {
		c := auth.Client{Identity: auth.Identity{User: tt.user}, ID: tt.id}
		if v := law.Authorize(t.Context(), &c, auth.Request{Action: tt.action, Topic: tt.topic}); v.Allowed != tt.allowed {
			t.Errorf("%+v: %+v", tt, v)
		}
	}
}

// A rule is for the clients that are in each of its lists.
func TestWhom(t *testing.T) {
	for _, tt := range []struct {
		name string
		rule acl.Rule
		is   bool
	}{
		{"everybody", acl.Rule{}, true},
		{"user", acl.Rule{Users: []string{"ben", "anna"}}, true},
		{"another user", acl.Rule{Users: []string{"ben"}}, false},
		{"beginning of a user", acl.Rule{Users: []string{"an*"}}, true},
		{"client", acl.Rule{Clients: []string{"panel-*"}}, true},
		{"another client", acl.Rule{Clients: []string{"panel"}}, false},
		{"group of the configuration", acl.Rule{Groups: []string{"operators"}}, true},
		{"group of the identity", acl.Rule{Groups: []string{"night"}}, true},
		{"another group", acl.Rule{Groups: []string{"day"}}, false},
		{"listener", acl.Rule{Listeners: []string{"lan"}}, true},
		{"another listener", acl.Rule{Listeners: []string{"wan"}}, false},
		{"address", acl.Rule{Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.0.0/16")}}, true},
		{"another address", acl.Rule{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, false},
		{"certificate", acl.Rule{Certificates: []string{"OU=office", "DNS=panel.example"}}, true},
		{"another certificate", acl.Rule{Certificates: []string{"OU=office", "O=x"}}, false},
		{"user from another listener", acl.Rule{Users: []string{"anna"}, Listeners: []string{"wan"}}, false},
	} {
		r := tt.rule
		r.Place, r.Allow, r.Actions, r.Topics, r.MaxQoS = "test:1", true, publish, []string{"a"}, 2
		law := acl.Law{Rules: []acl.Rule{r}, Groups: map[string][]string{"operators": {"anna"}}, Rest: auth.Verdict{Rule: "rest"}}.Prepare()
		c := anna()
		if v := law.Authorize(t.Context(), &c, auth.Request{Topic: "a"}); v.Allowed != tt.is {
			t.Errorf("%s: %+v", tt.name, v)
		}
		if v := law.Authorize(t.Context(), &auth.Client{}, auth.Request{Topic: "a"}); v.Allowed != (tt.name == "everybody") {
			t.Errorf("%s, for somebody without a name: %+v", tt.name, v)
		}
	}
}

// The first rule that matches decides.
func TestRules(t *testing.T) {
	all := []auth.Action{auth.Publish, auth.Subscribe, auth.Receive}
	law := acl.Law{Rules: []acl.Rule{
		{Place: "f:1", Topics: []string{"a/secret/#"}, Actions: all},
		{Place: "f:2", Topics: []string{"a/noise"}, Actions: receive},
		{Place: "f:3", Allow: true, Topics: []string{"a/#"}, Actions: subscribe},
		{Place: "f:4", Allow: true, Topics: []string{"of/%u/#", "id/%c"}, Actions: publish, MaxQoS: 1, NoRetain: true},
	}, Supers: []string{"root"}, Rest: auth.Verdict{Rule: "rest"}}
	for i := range law.Rules[:3] {
		law.Rules[i].MaxQoS = 2
	}
	l := law.Prepare()
	for _, tt := range []struct {
		who  auth.Client
		q    auth.Request
		rule string // that decides, with + in front if it allows
	}{
		{anna(), auth.Request{Action: auth.Subscribe, Topic: "a/b"}, "+f:3: allow subscribe a/#"},
		{anna(), auth.Request{Action: auth.Subscribe, Topic: "a/+/x"}, "f:1: deny publish, subscribe, receive a/secret/#"},
		{anna(), auth.Request{Action: auth.Subscribe, Topic: "a/#"}, "f:1"},
		{anna(), auth.Request{Action: auth.Subscribe, Topic: "#"}, "f:1"},
		{anna(), auth.Request{Action: auth.Subscribe, Topic: "+"}, "rest"},
		{anna(), auth.Request{Action: auth.Subscribe, Topic: "$SYS/#"}, "rest"},
		{anna(), auth.Request{Action: auth.Subscribe, Topic: "a/noise", QoS: 2}, "+f:3"},
		{anna(), auth.Request{Action: auth.Receive, Topic: "a/noise"}, "f:2"},
		{anna(), auth.Request{Action: auth.Receive, Topic: "a/b"}, "+f:3"},
		{anna(), auth.Request{Action: auth.Receive, Topic: "other"}, "+who may subscribe"},
		{anna(), auth.Request{Action: auth.Publish, Topic: "of/anna/x", QoS: 1}, "+f:4: allow publish of/%u/# id/%c, up to QoS 1, not retained"},
		{anna(), auth.Request{Action: auth.Publish, Topic: "of/anna/x", QoS: 2}, "rest"},
		{anna(), auth.Request{Action: auth.Publish, Topic: "of/anna/x", Retain: true}, "rest"},
		{anna(), auth.Request{Action: auth.Publish, Topic: "id/panel-7"}, "+f:4"},
		{anna(), auth.Request{Action: auth.Publish, Topic: "of/ben/x"}, "rest"},
		{auth.Client{ID: "+"}, auth.Request{Action: auth.Publish, Topic: "id/+"}, "rest"},
		{auth.Client{ID: "x/y"}, auth.Request{Action: auth.Publish, Topic: "id/x/y"}, "rest"},
		{auth.Client{ID: "x"}, auth.Request{Action: auth.Publish, Topic: "of//x"}, "rest"},
		{auth.Client{Identity: auth.Identity{User: "root"}}, auth.Request{Action: auth.Publish, Topic: "a/secret/x"}, `+user "root" is a super user`},
		{auth.Client{Identity: auth.Identity{User: "%c"}, ID: "victim"}, auth.Request{Action: auth.Publish, Topic: "of/victim/x"}, "rest"},
	} {
		v := l.Authorize(t.Context(), &tt.who, tt.q)
		want, allowed := strings.CutPrefix(tt.rule, "+")
		if v.Allowed != allowed || !strings.HasPrefix(v.Rule, want) {
			t.Errorf("%s %s %+v: %+v, want %s", tt.who.User, tt.who.ID, tt.q, v, tt.rule)
		}
	}
	c := anna()
	if !l.Filters(&c) {
		t.Error("there are rules for what she receives")
	}
	if l.Filters(&auth.Client{Identity: auth.Identity{User: "root"}}) {
		t.Error("a super user receives everything")
	}
	l.Rules = l.Rules[2:]
	if l.Filters(&c) {
		t.Error("no rule denies what she receives")
	}
}

// A file is read again when it has changed. One with errors changes nothing.
func TestLook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "acl")
	age := time.Hour
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		age -= time.Minute // a time stamp of its own
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := acl.OpenFile(path); err == nil {
		t.Error("a file that is not there was read")
	}
	write("topic a\n")
	f, err := acl.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	law := acl.Law{File: f}.Prepare()
	may := func(name string) bool {
		return law.Authorize(t.Context(), &auth.Client{ID: "x"}, auth.Request{Action: auth.Publish, Topic: name}).Allowed
	}
	if changed, err := f.Look(); changed || err != nil {
		t.Errorf("%t, %v", changed, err)
	}
	write("topic b\n")
	if changed, err := f.Look(); !changed || err != nil || may("a") || !may("b") {
		t.Errorf("%t, %v", changed, err)
	}
	write("topic\n")
	if changed, err := f.Look(); changed || err == nil || !may("b") {
		t.Errorf("%t, %v", changed, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if changed, err := f.Look(); changed || err == nil || !may("b") {
		t.Errorf("%t, %v", changed, err)
	}
	if changed, err := f.Look(); changed || err != nil {
		t.Errorf("the same trouble is told again: %t, %v", changed, err)
	}
	write("topic c\n")
	if changed, err := f.Look(); !changed || err != nil || !may("c") {
		t.Errorf("%t, %v", changed, err)
	}
	// Who may write the file says what everybody may do. A permission that is mended is noticed.
	write("topic d\n")
	mode := func(m os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, m); err != nil {
			t.Fatal(err)
		}
	}
	mode(0o646)
	if changed, err := f.Look(); changed || err == nil || !strings.Contains(err.Error(), "chmod o-w") || may("d") {
		t.Errorf("a file that everybody may write: %t, %v", changed, err)
	}
	mode(0o644)
	if changed, err := f.Look(); !changed || err != nil || !may("d") {
		t.Errorf("%t, %v", changed, err)
	}
}

// FuzzFile holds that any text is refused or gives rules that can be asked.
func FuzzFile(f *testing.F) {
	f.Add(lines+patterns, "anna", "c1", "house/safe")
	f.Add("pattern write %c%u%%u/+\n", "%c", "%u", "a/b")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text, user, id, name string) {
		path := filepath.Join(dir, "acl")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		file, err := acl.OpenFile(path)
		if err != nil || topic.ValidName(name) != nil {
			return
		}
		c := &auth.Client{Identity: auth.Identity{User: user}, ID: id}
		for _, a := range []auth.Action{auth.Publish, auth.Subscribe, auth.Receive} {
			if v := file.Authorize(t.Context(), c, auth.Request{Action: a, Topic: name}); v.Rule == "" {
				t.Fatalf("%s %q: no reason", a, name)
			}
		}
		command := file.Authorize(t.Context(), c, auth.Request{Topic: name, Command: true})
		if data := file.Authorize(t.Context(), c, auth.Request{Topic: name}); command.Rule == "" || command.Allowed && !data.Allowed {
			t.Fatalf("%q as a command: %+v, as data: %+v", name, command, data)
		}
	})
}

// Whoever may choose a name, as with a service that lets everybody register, does not get the gateway's own
// topics by it.
func TestNamesOfTheGateway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "acl")
	if err := os.WriteFile(path, []byte("pattern readwrite %u/#\npattern readwrite %c/#\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := acl.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rules := []acl.Rule{{Allow: true, Actions: []auth.Action{auth.Publish, auth.Subscribe, auth.Receive}, Topics: []string{"%u/#", "%c/#"}, MaxQoS: 2}}
	for _, l := range []*acl.Law{acl.Law{File: file}.Prepare(), acl.Law{Rules: rules}.Prepare()} {
		for name, want := range map[string]bool{"$CONTROL": false, "$SYS": false, "$dead": false, "anna": true} {
			for _, who := range []auth.Client{{Identity: auth.Identity{User: name}, ID: "c"}, {ID: name}} {
				q := auth.Request{Action: auth.Publish, Topic: name + "/devices/v1"}
				if v := l.Authorize(t.Context(), &who, q); v.Allowed != want {
					t.Errorf("user %q, client %q publishes %s: %+v", who.User, who.ID, q.Topic, v)
				}
			}
		}
	}
}
