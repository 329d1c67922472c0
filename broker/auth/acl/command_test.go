package acl_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gateway/broker/auth"
	"gateway/broker/auth/acl"
)

// A rule or a line of a file allows a command only if it names the topic; whatever allows or denies it
// otherwise stays as it is. A wide rule that comes first does not keep the one after it from being asked.
func TestCommands(t *testing.T) {
	rule := func(allow bool, topics ...string) acl.Rule {
		return acl.Rule{Place: "f:1", Allow: allow, Actions: publish, Topics: topics, MaxQoS: 2}
	}
	const command = "hall/lamp/set"
	for _, tt := range []struct {
		name         string
		rules        []acl.Rule
		lines        string
		allowed      bool
		named        bool   // by a rule or a line
		wide         string // the beginning of what is warned of
		otherAllowed bool   // hall/lamp/state
	}{
		{"a wide rule", []acl.Rule{rule(true, "#")}, "", false, false, "f:1: allow publish #", true},
		{"a wide rule, then one that names it", []acl.Rule{rule(true, "#"), rule(true, "+/+/set")}, "", true, true, "f:1: allow publish #", true},
		{"one rule with both", []acl.Rule{rule(true, "hall/#", command)}, "", true, true, "f:1: allow publish hall/#", true},
		{"the point's own topics", []acl.Rule{rule(true, "hall/lamp/#")}, "", true, true, "", true},
		{"whoever is called set", []acl.Rule{rule(true, "hall/lamp/%u")}, "", false, false, "f:1: allow", false},
		{"a wide rule that denies", []acl.Rule{rule(false, "#"), rule(true, command)}, "", false, true, "", false},
		{"a wide line", nil, "user set\ntopic readwrite #\n", false, false, "acl:2: topic readwrite #", true},
		{"a wide pattern", nil, "pattern write hall/lamp/%u\npattern hall/#\n", false, false, "acl:1: pattern write hall/lamp/%u", true},
		{"a line that names it", nil, "user set\ntopic #\ntopic write hall/+/set\n", true, true, "acl:2: topic #", true},
		{"a pattern that names it", nil, "pattern write hall/lamp/set\n", true, true, "", false},
		{"a line that denies", nil, "user set\ntopic deny hall/#\ntopic write hall/+/set\n", false, true, "", false},
		{"who may only read", nil, "user set\ntopic read hall/lamp/set\n", false, false, "", false},
		{"a wide rule before a line", []acl.Rule{rule(true, "#")}, "user set\ntopic write hall/lamp/set\n", true, true, "f:1: allow publish #", true},
	} {
		law := acl.Law{Rules: tt.rules, Rest: auth.Verdict{Rule: "rest"}}
		if tt.lines != "" {
			file := filepath.Join(t.TempDir(), "acl")
			if err := os.WriteFile(file, []byte(tt.lines), 0o600); err != nil {
				t.Fatal(err)
			}
			var err error
			if law.File, err = acl.OpenFile(file); err != nil {
				t.Fatal(err)
			}
		}
		l := law.Prepare()
		c := &auth.Client{Identity: auth.Identity{User: "set"}, ID: "c"}
		if v := l.Authorize(t.Context(), c, auth.Request{Topic: command, Command: true}); v.Allowed != tt.allowed || v.Rule == "" {
			t.Errorf("%s: %+v", tt.name, v)
		}
		if v := l.Authorize(t.Context(), c, auth.Request{Topic: "hall/lamp/state"}); v.Allowed != tt.otherAllowed {
			t.Errorf("%s, data: %+v", tt.name, v)
		}
		if wide, named := l.Wide(command); named != tt.named || !strings.HasPrefix(wide, tt.wide) || (wide == "") != (tt.wide == "") {
			t.Errorf("%s: warned of %q, named %t", tt.name, wide, named)
		}
	}
}
