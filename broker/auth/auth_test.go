package auth_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"gateway/broker/auth"
)

// reply is an Authenticator that knows its answer.
type reply struct {
	user string
	err  error
}

func (a reply) Authenticate(context.Context, auth.Attempt) (auth.Identity, error) {
	return auth.Identity{User: a.user}, a.err
}

func TestChain(t *testing.T) {
	unknown, wrong := reply{err: fmt.Errorf("no such user: %w", auth.ErrUnknown)}, reply{err: auth.ErrBadCredentials}
	banned, good := reply{err: auth.ErrBanned}, reply{user: "anna"}
	for name, tt := range map[string]struct {
		chain auth.Chain
		user  string
		err   error
	}{
		"the first that knows":           {auth.Chain{unknown, good, wrong}, "anna", nil},
		"a refusal is final":             {auth.Chain{unknown, wrong, good}, "", auth.ErrBadCredentials},
		"a ban is final":                 {auth.Chain{banned, good}, "", auth.ErrBanned},
		"nobody knows: like a wrong one": {auth.Chain{unknown, unknown}, "", auth.ErrBadCredentials},
		"a chain of chains is final":     {auth.Chain{auth.Chain{unknown}, good}, "", auth.ErrBadCredentials},
		"empty":                          {nil, "", auth.ErrBadCredentials},
	} {
		id, err := tt.chain.Authenticate(t.Context(), auth.Attempt{})
		if id.User != tt.user || !errors.Is(err, tt.err) || err != nil && errors.Is(err, auth.ErrUnknown) {
			t.Errorf("%s: %q, %v", name, id.User, err)
		}
	}
}

// slow is one that takes its time.
type slow struct {
	reply
	delays *int
}

func (s slow) Delay(context.Context, auth.Attempt) { *s.delays++ }

// Who is known to one and refused waits as long as who is known to none.
func TestChainTakesItsTime(t *testing.T) {
	unknown, wrong, good := reply{err: auth.ErrUnknown}, reply{err: auth.ErrBadCredentials}, reply{user: "anna"}
	for name, tt := range map[string]struct {
		first reply
		want  int
	}{"known and wrong": {wrong, 1}, "known and right": {good, 0}, "unknown, so that it is asked": {unknown, 0}} {
		delays := 0
		_, _ = auth.Chain{tt.first, slow{wrong, &delays}}.Authenticate(t.Context(), auth.Attempt{})
		if delays != tt.want {
			t.Errorf("%s: %d delays, want %d", name, delays, tt.want)
		}
	}
}

// law is an Authorizer that has one answer; filter is one with rules for Receive.
type law auth.Verdict

func (l law) Authorize(context.Context, *auth.Client, auth.Request) auth.Verdict {
	return auth.Verdict(l)
}

type filter struct{ law }

func (filter) Filters(*auth.Client) bool { return true }

func TestDecide(t *testing.T) {
	none, yes, no := law{}, law{Allowed: true, Rule: "yes"}, law{Rule: "no"}
	for name, tt := range map[string]struct {
		id      auth.Identity
		rules   auth.Authorizer
		action  auth.Action
		allowed bool
	}{
		"no rules":                              {auth.Identity{}, nil, auth.Publish, true},
		"denied":                                {auth.Identity{}, no, auth.Publish, false},
		"super user":                            {auth.Identity{Super: true}, no, auth.Publish, true},
		"own rules first":                       {auth.Identity{Rules: yes}, no, auth.Publish, true},
		"own rules deny":                        {auth.Identity{Rules: no}, yes, auth.Subscribe, false},
		"own rules deny, no others":             {auth.Identity{Rules: no}, nil, auth.Subscribe, false},
		"own rules silent":                      {auth.Identity{Rules: none}, yes, auth.Subscribe, true},
		"all silent":                            {auth.Identity{Rules: none}, none, auth.Publish, false},
		"all silent, to receive":                {auth.Identity{}, filter{none}, auth.Receive, true},
		"not asked about what is received":      {auth.Identity{}, no, auth.Receive, true},
		"asked about what is received":          {auth.Identity{}, filter{no}, auth.Receive, false},
		"own rules about what is received":      {auth.Identity{Rules: filter{no}}, nil, auth.Receive, false},
		"own rules silent about it":             {auth.Identity{Rules: filter{none}}, filter{no}, auth.Receive, false},
		"super user, about what is received":    {auth.Identity{Super: true}, filter{no}, auth.Receive, true},
		"own rules not asked about what's read": {auth.Identity{Rules: no}, filter{yes}, auth.Receive, true},
	} {
		c := &auth.Client{Identity: tt.id}
		v := auth.Decide(t.Context(), c, tt.rules, auth.Request{Action: tt.action})
		if v.Allowed != tt.allowed || v.Rule == "" {
			t.Errorf("%s: %+v", name, v)
		}
		if tt.action == auth.Receive && !v.Allowed && !auth.Filters(c, tt.rules) {
			t.Errorf("%s: denied, though there are no rules for what is received", name)
		}
	}
}

// The gateway is administered by super users, and by whom a rule allows it: having no rules is none.
func TestControl(t *testing.T) {
	for _, tt := range []struct {
		id      auth.Identity
		rules   auth.Authorizer
		allowed bool
	}{
		{auth.Identity{}, nil, false},
		{auth.Identity{}, law{}, false},
		{auth.Identity{}, law{Allowed: true, Rule: "yes"}, true},
		{auth.Identity{Rules: law{Allowed: true, Rule: "yes"}}, nil, true},
		{auth.Identity{Super: true}, nil, true},
	} {
		for _, action := range []auth.Action{auth.Publish, auth.Subscribe} {
			v := auth.Decide(t.Context(), &auth.Client{Identity: tt.id}, tt.rules, auth.Request{Action: action, Topic: auth.Control + "devices/v1"})
			if v.Allowed != tt.allowed {
				t.Errorf("%+v, %+v: %+v", tt.id, tt.rules, v)
			}
		}
	}
}
