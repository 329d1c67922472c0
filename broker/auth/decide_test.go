package auth_test

import (
	"context"
	"testing"

	"gateway/broker/auth"
)

// A filter names a topic of commands if it has its last level, or all before that, in writing.
func TestNames(t *testing.T) {
	for _, tt := range []struct {
		filter, topic string
		names         bool
	}{
		{"hall/lamp/set", "hall/lamp/set", true},
		{"hall/+/set", "hall/lamp/set", true},
		{"+/+/set", "hall/lamp/set", true},
		{"hall/lamp/#", "hall/lamp/set", true},
		{"hall/lamp/+", "hall/lamp/set", true},
		{"hall/%u/set", "hall/lamp/set", true},
		{"#", "hall/lamp/set", false},
		{"+/#", "hall/lamp/set", false},
		{"hall/#", "hall/lamp/set", false},
		{"hall/+/+", "hall/lamp/set", false},
		{"hall/+/#", "hall/lamp/set", false},
		{"hall/lamp/%u", "hall/lamp/set", false}, // a user called "set"
		{"hall/%u/#", "hall/lamp/set", false},
		{"#", "vent/set", false},
		{"+/set", "vent/set", true},
		{"vent/#", "vent/set", true},
		{"#", "set", false},
		{"+", "set", false},
		{"set", "set", true},
	} {
		if got := auth.Names(tt.filter, tt.topic); got != tt.names {
			t.Errorf("%s names %s: %t", tt.filter, tt.topic, got)
		}
	}
}

// none has no opinion.
type none struct{}

func (none) Authorize(context.Context, *auth.Client, auth.Request) auth.Verdict {
	return auth.Verdict{}
}

// Where no rule has an opinion about a command, it is denied, with or without others.
func TestCommandsAreDenied(t *testing.T) {
	r := auth.Request{Topic: "hall/lamp/set", Command: true}
	if v := auth.Decide(t.Context(), &auth.Client{}, none{}, r); v.Allowed || v.Rule != auth.Unnamed {
		t.Errorf("%+v", v)
	}
	if v := auth.Decide(t.Context(), &auth.Client{}, nil, r); v.Allowed || v.Rule != auth.Unnamed {
		t.Errorf("without rules: %+v", v)
	}
	super := auth.Client{Identity: auth.Identity{Super: true}}
	if v := auth.Decide(t.Context(), &super, none{}, r); !v.Allowed {
		t.Errorf("a super user: %+v", v)
	}
}
