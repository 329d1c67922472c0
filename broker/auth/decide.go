package auth

import (
	"context"
	"strings"
)

// Control is what the topics begin with by which the gateway is administered. Nobody may use them
// but a super user, and whom a rule of the listener or of the identity allows it by name.
const Control = "$CONTROL/"

// Decide answers a request of a client of a listener with these rules; nil: everything is allowed but
// commands that the rules of the client's identity do not deny. The runtime and whoever explains it both
// ask here.
func Decide(ctx context.Context, c *Client, rules Authorizer, r Request) Verdict {
	if c.Super {
		return Verdict{Allowed: true, Rule: "super user: may do everything"}
	}
	for _, a := range [...]Authorizer{c.Rules, rules} {
		if a == nil {
			continue
		}
		if _, ok := a.(Filter); !ok && r.Action == Receive {
			continue
		}
		if v := a.Authorize(ctx, c, r); v.Allowed || v.Rule != "" {
			return v
		}
	}
	switch {
	case strings.HasPrefix(r.Topic, Control):
		return Verdict{Rule: "only a super user administers the gateway, or one whom a rule for " + Control + " allows it"}
	case r.Command:
		return Verdict{Rule: Unnamed}
	case rules == nil:
		return Verdict{Allowed: true, Rule: "no rules are set: everything is allowed but commands"}
	case r.Action == Receive:
		return Verdict{Allowed: true, Rule: "what may be subscribed to may be received: no rule says otherwise"}
	}
	return Verdict{Rule: "no rule allows it"}
}

// Super reports whether a client may do everything, by its identity or by the rules of its listener.
func Super(c *Client, rules Authorizer) bool {
	r, ok := rules.(interface{ Super(c *Client) bool })
	return c.Super || ok && r.Super(c)
}

// Unnamed is why a command is denied that no rule allows.
const Unnamed = "commands are denied unless a rule names their topic: with its last level written out, as in hall/+/set, or with all before it, as in hall/lamp/#"

// Names reports whether a filter that matches a topic of commands names it: it has the topic's last
// level in writing, or all that stands before that, and then # or +.
func Names(filter, topic string) bool {
	end := strings.LastIndexByte(topic, '/')
	if end < 0 {
		return filter == topic
	}
	front, last := "", filter
	if i := strings.LastIndexByte(filter, '/'); i >= 0 {
		front, last = filter[:i], filter[i+1:]
	}
	return last == topic[end+1:] || (last == "#" || last == "+") && front == topic[:end]
}

// Filters reports whether there can be rules for what a client receives, of its identity or of its
// listener.
func Filters(c *Client, rules Authorizer) bool {
	for _, a := range [...]Authorizer{c.Rules, rules} {
		if f, ok := a.(Filter); ok && !c.Super && f.Filters(c) {
			return true
		}
	}
	return false
}
