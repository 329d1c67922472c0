// Package acl decides what clients may do with which topics: by rules of the configuration, and by
// ACL files of Mosquitto.
package acl

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gateway/broker/auth"
	"gateway/broker/topic"
)

// A Rule allows or denies some clients to do something with some topics. An empty list of clients
// of one sort stands for all of them; a rule is for a client that is in every list.
type Rule struct {
	Place   string // file and line, for people
	Allow   bool
	Actions []auth.Action
	// Topics are filters in which %u stands for the user name and %c for the client identifier,
	// each as a whole level or a part of one.
	Topics    []string
	Users     []string // with * at the end: all that begin so
	Clients   []string // client identifiers, in the same way
	Groups    []string
	Listeners []string
	Addresses []netip.Prefix
	// Certificates are attributes that the client's certificate has, as "OU=field"; see
	// auth.Attributes.
	Certificates []string
	MaxQoS       byte // of a publication or subscription that the rule is for
	NoRetain     bool // it is not for messages that are to be retained

	text string // see Law.Prepare
}

// String returns the rule as people read it.
func (r *Rule) String() string {
	word := "deny"
	if r.Allow {
		word = "allow"
	}
	actions := make([]string, len(r.Actions))
	for i, a := range r.Actions {
		actions[i] = a.String()
	}
	text := fmt.Sprintf("%s: %s %s %s", r.Place, word, strings.Join(actions, ", "), strings.Join(r.Topics, " "))
	for _, l := range []struct {
		noun string
		list []string
	}{{"users", r.Users}, {"clients", r.Clients}, {"groups", r.Groups}, {"listeners", r.Listeners}, {"certificates", r.Certificates}} {
		if len(l.list) > 0 {
			text += fmt.Sprintf(", %s %s", l.noun, strings.Join(l.list, " "))
		}
	}
	if len(r.Addresses) > 0 {
		text += fmt.Sprintf(", addresses %v", r.Addresses)
	}
	if r.MaxQoS < 2 {
		text += fmt.Sprintf(", up to QoS %d", r.MaxQoS)
	}
	if r.NoRetain {
		text += ", not retained"
	}
	return text
}

// is reports whether the rule is for a client.
func (r *Rule) is(c *auth.Client, groups map[string][]string) bool {
	in := func(g string) bool {
		return slices.Contains(c.Groups, g) || c.User != "" && slices.Contains(groups[g], c.User)
	}
	from := func(p netip.Prefix) bool { return p.Contains(c.Addr) }
	return named(r.Users, c.User) && named(r.Clients, c.ID) &&
		(len(r.Listeners) == 0 || slices.Contains(r.Listeners, c.Listener)) &&
		(len(r.Groups) == 0 || slices.ContainsFunc(r.Groups, in)) &&
		(len(r.Addresses) == 0 || slices.ContainsFunc(r.Addresses, from)) &&
		(len(r.Certificates) == 0 || c.Certificate != nil && certified(r.Certificates, c.Certificate))
}

// named reports whether a name is in a list; an empty list has all of them, but not nobody's.
func named(list []string, name string) bool {
	return len(list) == 0 || name != "" && slices.ContainsFunc(list, func(s string) bool {
		front, more := strings.CutSuffix(s, "*")
		return s == name || more && strings.HasPrefix(name, front)
	})
}

// certified reports whether a certificate has every attribute of a list.
func certified(list []string, c *x509.Certificate) bool {
	for _, a := range list {
		key, value, _ := strings.Cut(a, "=")
		if !slices.Contains(auth.Attribute(c, key), value) {
			return false
		}
	}
	return true
}

// matches reports whether the rule says something about what a client wants, given that it is for
// the client. A rule that allows is for a subscription that it covers, one that denies for every
// subscription that it has to do with. Who may subscribe may receive. For a command it is a rule that allows
// only if it names the topic.
func (r *Rule) matches(c *auth.Client, q auth.Request) bool {
	about := slices.Contains(r.Actions, q.Action) || r.Allow && q.Action == auth.Receive && slices.Contains(r.Actions, auth.Subscribe)
	if !about || q.Action != auth.Receive && q.QoS > r.MaxQoS || q.Action == auth.Publish && q.Retain && r.NoRetain {
		return false
	}
	for _, t := range r.Topics {
		filter, ok := forClient(t, c, r.Allow)
		switch {
		case !ok:
		case q.Command && r.Allow && !auth.Names(t, q.Topic):
			ok = false
		case q.Action != auth.Subscribe:
			ok = topic.Match(filter, q.Topic)
		case r.Allow:
			ok = topic.Covers(filter, q.Topic)
		default:
			ok = topic.Overlap(filter, q.Topic)
		}
		if ok {
			return true
		}
	}
	return false
}

// forClient returns a rule's filter for a client. A name with a character that means something in
// a filter would make it another filter, and fits none of a rule that allows; nor does one that would make its
// topics those of the gateway itself, as the user $CONTROL would. A rule that denies counts for any name: it
// can only deny more, and nobody is to get around it by what he calls himself.
func forClient(filter string, c *auth.Client, allow bool) (string, bool) {
	if !strings.Contains(filter, "%") {
		return filter, true
	}
	for _, v := range [...]struct{ mark, value string }{{"%u", c.User}, {"%c", c.ID}} {
		if !strings.Contains(filter, v.mark) {
			continue
		}
		odd := strings.ContainsAny(v.value, "+#/\x00") || strings.HasPrefix(v.value, "$") && strings.HasPrefix(filter, v.mark)
		if v.value == "" || allow && odd {
			return "", false
		}
	}
	return expand(filter, c), true
}

// A Law is all that is said about what clients may do: rules, of which the first that matches
// decides, and then the lines of a file.
type Law struct {
	Supers []string            // users that may do everything
	Groups map[string][]string // users by the group that they are in
	Rules  []Rule
	File   *File // nil: none
	// Rest is what counts where no rule matches and there is no file, but for commands.
	Rest auth.Verdict

	super map[string]string // why each of Supers may do everything
}

// Prepare returns the law, ready to be asked.
func (l Law) Prepare() *Law {
	l.Rules = slices.Clone(l.Rules)
	for i := range l.Rules {
		l.Rules[i].text = l.Rules[i].String()
	}
	l.super = make(map[string]string)
	for _, user := range l.Supers {
		l.super[user] = fmt.Sprintf("user %q is a super user: may do everything", user)
	}
	return &l
}

// Filters reports whether there are rules for what a client receives.
func (l *Law) Filters(c *auth.Client) bool {
	if l.Super(c) {
		return false
	}
	return l.File != nil || slices.ContainsFunc(l.Rules, func(r Rule) bool {
		return !r.Allow && slices.Contains(r.Actions, auth.Receive) && r.is(c, l.Groups)
	})
}

// Super reports whether a client is of a user that may do everything.
func (l *Law) Super(c *auth.Client) bool { return c.User != "" && slices.Contains(l.Supers, c.User) }

// Authorize decides about a request.
func (l *Law) Authorize(ctx context.Context, c *auth.Client, q auth.Request) auth.Verdict {
	if l.Super(c) {
		return auth.Verdict{Allowed: true, Rule: l.super[c.User]}
	}
	for i := range l.Rules {
		if r := &l.Rules[i]; r.matches(c, q) && r.is(c, l.Groups) {
			return auth.Verdict{Allowed: r.Allow, Rule: r.text}
		}
	}
	switch {
	case l.File != nil:
		return l.File.Authorize(ctx, c, q)
	case q.Action == auth.Receive:
		return auth.Verdict{Allowed: true, Rule: "who may subscribe may receive: no rule denies it"}
	case q.Command:
		return auth.Verdict{Rule: auth.Unnamed}
	}
	return l.Rest
}

// Wide looks for what would let clients publish on a topic of commands: it reports whether a rule or a
// line names the topic for some of them, and returns the first one that has it in its filter and does not.
func (l *Law) Wide(command string) (rule string, named bool) {
	see := func(filter, text string) {
		if !topic.Match(forAnybody(filter), command) {
			return
		}
		if auth.Names(filter, command) {
			named = true
		} else if rule == "" {
			rule = text
		}
	}
	for i := range l.Rules {
		if r := &l.Rules[i]; r.Allow && slices.Contains(r.Actions, auth.Publish) {
			for _, t := range r.Topics {
				see(t, r.text)
			}
		}
	}
	if l.File != nil {
		l.File.each(func(e *entry) {
			if e.write {
				see(e.filter, e.rule)
			}
		})
	}
	return rule, named
}

// forAnybody returns the filter that has all topics of a rule's, whoever the client is.
func forAnybody(filter string) string {
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		if strings.Contains(level, "%u") || strings.Contains(level, "%c") {
			levels[i] = "+"
		}
	}
	return strings.Join(levels, "/")
}
