package acl_test

import (
	"os"
	"path/filepath"
	"testing"

	"gateway/broker/auth"
	"gateway/broker/auth/acl"
)

// Each message is asked about, for its publisher and for each of its receivers: an answer costs no memory.
func TestAnswersCostNoMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "acl")
	if err := os.WriteFile(path, []byte("user anna\ntopic read mine\npattern read of/x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := acl.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	law := acl.Law{Supers: []string{"root"}, File: file, Rules: []acl.Rule{
		{Place: "a:1", Actions: []auth.Action{auth.Receive}, Topics: []string{"secret/#"}, MaxQoS: 2},
	}}.Prepare()
	for _, tt := range []struct {
		user, id string
		r        auth.Request
		allowed  bool
	}{
		{"root", "c", auth.Request{Action: auth.Publish, Topic: "any/thing", Command: true}, true},
		{"root", "c", auth.Request{Action: auth.Receive, Topic: "any/thing"}, true},
		{"anna", "c", auth.Request{Action: auth.Receive, Topic: "secret/a"}, false},
		{"anna", "c", auth.Request{Action: auth.Receive, Topic: "mine"}, true},
		{"anna", "c", auth.Request{Action: auth.Receive, Topic: "other"}, false},
		{"ben", "c", auth.Request{Action: auth.Receive, Topic: "other"}, false},
		{"", "c", auth.Request{Action: auth.Receive, Topic: "other"}, false},
		{"ben", "+", auth.Request{Action: auth.Receive, Topic: "other"}, false},
		{"ben", "c", auth.Request{Action: auth.Publish, Topic: "x/set", Command: true}, false},
	} {
		c := &auth.Client{Identity: auth.Identity{User: tt.user}, ID: tt.id}
		var v auth.Verdict
		ctx := t.Context()
		if n := testing.AllocsPerRun(100, func() { v = law.Authorize(ctx, c, tt.r) }); n > 0 || v.Allowed != tt.allowed || v.Rule == "" {
			t.Errorf("%q %s %s: %+v, %v allocations", tt.user, tt.r.Action, tt.r.Topic, v, n)
		}
	}
}
