package service

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"gateway/broker/auth"
)

func TestRuleOfAnswer(t *testing.T) {
	a, err := parseAnswer(200, "application/json", []byte(`{"result":"allow","acl":[
		{"permission":"deny","action":"all","topic":"secret/#"},
		{"permission":"allow","action":"publish","topic":"dev/${clientid}/+"},
		{"permission":"allow","action":"subscribe","topic":"all/#","qos":0},
		{"permission":"allow","topic":"eq a/+"},
		{"permission":"allow","action":"publish","topic":"kept","retain":true},
		{"permission":"deny","action":"publish","topic":"kept","retain":"all"},
		{"permission":"allow","topic":"two/levels"},
		{"permission":"allow","topic":"+/any"}
	]}`))
	if err != nil {
		t.Fatal(err)
	}
	const p, s = auth.Publish, auth.Subscribe
	for _, tt := range []struct {
		r      auth.Request
		client string
		want   string
	}{
		{auth.Request{Action: p, Topic: "m/dev/d1/x"}, "d1", "allow"},
		{auth.Request{Action: s, Topic: "m/dev/d1/x"}, "d1", ""},
		{auth.Request{Action: p, Topic: "m/dev/d2/x"}, "d1", ""},
		{auth.Request{Action: p, Topic: "m/dev/d2/x"}, "+", ""},
		{auth.Request{Action: p, Topic: "m/dev/a/x"}, "a/x", ""},
		{auth.Request{Action: p, Topic: "m/secret"}, "d1", "deny"},
		{auth.Request{Action: p, Topic: "m/secret/x"}, "d1", "deny"},
		{auth.Request{Action: s, Topic: "m/#"}, "d1", "deny"}, // a part of it
		{auth.Request{Action: s, Topic: "m/+"}, "d1", "deny"}, // secret
		{auth.Request{Action: s, Topic: "m/+/x"}, "d1", "deny"},
		{auth.Request{Action: s, Topic: "m/all/#"}, "d1", "allow"},
		{auth.Request{Action: s, Topic: "m/all/+/x"}, "d1", "allow"},
		{auth.Request{Action: s, Topic: "m/all/x", QoS: 1}, "d1", ""},
		{auth.Request{Action: s, Topic: "m/a/+"}, "d1", "allow"},
		{auth.Request{Action: s, Topic: "m/a/b"}, "d1", ""},
		{auth.Request{Action: s, Topic: "m/a/#"}, "d1", ""},
		{auth.Request{Action: p, Topic: "m/kept", Retain: true}, "d1", "allow"},
		{auth.Request{Action: p, Topic: "m/kept"}, "d1", "deny"},
		{auth.Request{Action: s, Topic: "m/two/levels"}, "d1", "allow"},
		{auth.Request{Action: s, Topic: "m/two/levels/#"}, "d1", ""}, // more than the rule has
		{auth.Request{Action: s, Topic: "m/two/+"}, "d1", ""},
		{auth.Request{Action: s, Topic: "m/x/any"}, "d1", "allow"},
		{auth.Request{Action: p, Topic: "$SYS/any"}, "d1", ""},
		{auth.Request{Action: p, Topic: "m/two/levels", Command: true}, "d1", "allow"},
		{auth.Request{Action: p, Topic: "m/x/any", Command: true}, "d1", "allow"},
		{auth.Request{Action: p, Topic: "m/dev/d1/set", Command: true}, "d1", ""}, // not in writing
		{auth.Request{Action: p, Topic: "m/secret/set", Command: true}, "d1", "deny"},
	} {
		v := rules{a.rules, "m/"}.Authorize(t.Context(), &auth.Client{ID: tt.client}, tt.r)
		got := ""
		if v.Allowed {
			got = "allow"
		} else if v.Rule != "" {
			got = "deny"
		}
		if got != tt.want {
			t.Errorf("%s %s: %q (%s), want %q", tt.r.Action, tt.r.Topic, got, v.Rule, tt.want)
		}
	}
	known := &Service{o: Options{Listeners: map[string]Listener{"l": {Mount: "m/"}}}}
	text, err := json.Marshal(rules{a.rules, "m/"})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := known.Recall(text, "l"); err != nil || !reflect.DeepEqual(again, rules{a.rules, "m/"}) {
		t.Errorf("%s is read as %+v, %v", text, again, err)
	}
	for _, bad := range []string{"", "{}", "null", `[{"permission":"may","topic":"a"}]`} {
		if _, err := known.Recall([]byte(bad), "l"); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
	// What is kept on disk is the same afterwards.
	b, err := json.Marshal(a.rules)
	if err != nil {
		t.Fatal(err)
	}
	var again []rule
	if err := json.Unmarshal(b, &again); err != nil || !reflect.DeepEqual(again, a.rules) {
		t.Errorf("%v: %s has become %+v", err, b, again)
	}
}

// A name that a client has chosen does not make a rule one for the gateway's own topics.
func TestRuleForNameOfTheGateway(t *testing.T) {
	rs := rules{[]rule{{Permission: "allow", Topic: "${username}/#"}}, ""}
	for name, want := range map[string]bool{"$CONTROL": false, "ann": true} {
		c := &auth.Client{Identity: auth.Identity{User: name}}
		if v := rs.Authorize(t.Context(), c, auth.Request{Topic: name + "/devices/v1"}); v.Allowed != want {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// What a service says is at worst no answer; what is one decides without a panic, and is the same
// after it was on disk.
func FuzzAnswer(f *testing.F) {
	for _, body := range []string{
		"", "ignore", "deny", "{", "[]", `{"result":"allow"}`, `{"result":"deny","is_superuser":true}`, `{"result":"ignore","expire_at":-1}`,
		`{"result":"allow","expire_at":9223372036854775807,"acl":[{"permission":"deny","action":"all","topic":"a/+/#","qos":[0,1],"retain":true}]}`,
		`{"acl":[{"permission":"allow","topic":"eq $x/${username}","qos":2,"retain":"all"}]}`,
	} {
		f.Add(200, "application/json", []byte(body), "a/b")
	}
	f.Add(404, "text/html", []byte("<html>"), "#")
	f.Fuzz(func(t *testing.T, status int, kind string, body []byte, topic string) {
		a, err := parseAnswer(status, kind, body)
		if err != nil {
			return
		}
		if a.result == allow && status != 200 && status != 204 {
			t.Errorf("status %d lets in", status)
		}
		c := &auth.Client{ID: topic}
		r := auth.Request{Action: auth.Subscribe, Topic: topic}
		v := rules{a.rules, ""}.Authorize(t.Context(), c, r)
		b, err := json.Marshal(a.rules)
		if err != nil {
			t.Fatal(err)
		}
		var again []rule
		if err := json.Unmarshal(b, &again); err != nil {
			t.Fatal(err)
		}
		if after := (rules{again, ""}).Authorize(t.Context(), c, r); after != v {
			t.Errorf("%+v has become %+v", v, after)
		}
	})
}

// A rule that denies counts for every name, one that allows only for those that are a level of text.
func TestRuleOfAnswerForOddNames(t *testing.T) {
	const topic = "private/${clientid}/#"
	deny := rules{[]rule{{Permission: "deny", Topic: topic}, {Permission: "allow", Topic: "private/#"}}, ""}
	allow := rules{[]rule{{Permission: "allow", Topic: topic}}, ""}
	first := rules{[]rule{{Permission: "deny", Topic: "${username}/x"}, {Permission: "allow", Topic: "$SYS/#"}}, ""}
	for _, id := range []string{"x", "a/b", "a/+", "+", "#", "a/#", "$x"} {
		c := &auth.Client{ID: id}
		odd := strings.ContainsAny(id, "+#/")
		name := "private/" + strings.NewReplacer("+", "q", "#", "q").Replace(id) + "/y"
		for _, r := range []auth.Request{{Topic: name}, {Action: auth.Subscribe, Topic: name}, {Action: auth.Subscribe, Topic: "private/#"}} {
			if v := deny.Authorize(t.Context(), c, r); v.Allowed {
				t.Errorf("%q may %s %s: %s", id, r.Action, r.Topic, v.Rule)
			}
			if v := allow.Authorize(t.Context(), c, r); v.Allowed != (!odd && r.Topic == name) {
				t.Errorf("%q, %s %s: %+v", id, r.Action, r.Topic, v)
			}
		}
		if v := deny.Authorize(t.Context(), c, auth.Request{Topic: "private/other/y"}); v.Allowed != (id != "+" && id != "#") {
			t.Errorf("%q publishes elsewhere: %+v", id, v)
		}
	}
	if v := first.Authorize(t.Context(), &auth.Client{Identity: auth.Identity{User: "$SYS"}}, auth.Request{Action: auth.Subscribe, Topic: "$SYS/x"}); v.Allowed {
		t.Errorf("a user called $SYS: %+v", v)
	}
}
