package acl_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gateway/broker/auth"
	"gateway/broker/auth/acl"
)

// BenchmarkAuthorize asks what is asked for each message: without rules, by twenty rules, and by
// an ACL file with a hundred users and some patterns.
func BenchmarkAuthorize(b *testing.B) {
	var lines strings.Builder
	for i := range 100 {
		fmt.Fprintf(&lines, "user user-%d\ntopic read hall/%d/#\ntopic write hall/%d/set\n", i, i, i)
	}
	lines.WriteString("pattern readwrite of/%u/#\npattern read id/%c/+\n")
	path := filepath.Join(b.TempDir(), "acl")
	if err := os.WriteFile(path, []byte(lines.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	file, err := acl.OpenFile(path)
	if err != nil {
		b.Fatal(err)
	}
	var rules []acl.Rule
	for i := range 20 {
		rules = append(rules, acl.Rule{Allow: true, Actions: []auth.Action{auth.Publish}, Topics: []string{fmt.Sprintf("hall/%d/+", i)}, Users: []string{"user-7"}, MaxQoS: 2})
	}
	c := &auth.Client{Identity: auth.Identity{User: "user-7"}, ID: "panel"}
	for name, of := range map[string]auth.Authorizer{
		"nothing": nil, "rules": acl.Law{Rules: rules}.Prepare(), "file": acl.Law{File: file}.Prepare(),
	} {
		for topic, action := range map[string]auth.Action{"hall/7/set": auth.Publish, "of/user-7/x": auth.Receive} {
			b.Run(name+"/"+action.String(), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					auth.Decide(b.Context(), c, of, auth.Request{Action: action, Topic: topic})
				}
			})
		}
	}
}
