package main

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"gateway/broker/auth"
	"gateway/broker/auth/acl"
	"gateway/broker/auth/passwd"
	"gateway/broker/topic"
	"gateway/config"
)

// access is who may log in with a password, and what clients may do.
type access struct {
	c         *config.Config
	users     *passwd.Users // nil: no password file is configured
	file      *acl.File     // nil: no ACL file is configured
	endDenied bool
}

// hashQueue is how many clients wait while passwords of others are checked; more of them are told
// to come again.
const hashQueue = 100

// hashers is how many passwords are hashed at a time: one processor stays free for those who are in.
func hashers() int { return max(1, runtime.GOMAXPROCS(0)-1) }

// openAccess reads the files of users and rules. With an error there is one that lets nobody do
// anything until it is mended.
func openAccess(c *config.Config) (*access, error) {
	a := &access{c: c, endDenied: c.Auth.DenyAction == "disconnect"}
	var noUsers, noRules error
	if path := c.Auth.PasswordFile; path != "" {
		a.users, noUsers = passwd.Open(path, passwd.NewPool(hashers(), hashQueue))
	}
	if path := c.Auth.ACLFile; path != "" {
		a.file, noRules = acl.OpenFile(path)
	}
	return a, errors.Join(noUsers, noRules)
}

// rolls returns the files that are to be watched.
func (a *access) rolls() (all []roll) {
	if a.users != nil {
		all = append(all, roll{a.c.Auth.PasswordFile, a.users, func(c *auth.Client) bool { return c.By == passwd.By }})
	}
	if a.file != nil {
		all = append(all, roll{a.c.Auth.ACLFile, aclRoll{a.file}, func(*auth.Client) bool { return false }})
	}
	return all
}

// An aclRoll is an ACL file as one of users that nobody leaves: each message is asked about anew.
type aclRoll struct{ file *acl.File }

func (r aclRoll) Look() (gone []string, changed bool, err error) {
	changed, err = r.file.Look()
	return nil, changed, err
}

// of returns what decides about requests on a listener; nil: everything is allowed but commands and what
// begins with $CONTROL/.
func (a *access) of(l config.Listener) auth.Authorizer {
	s := &a.c.Auth
	switch {
	case a.ruled():
		return a.law().Prepare()
	case !l.Local():
		return acl.Law{Supers: s.SuperUsers, Rules: builtIn, Rest: auth.Verdict{Rule: "built in: topics that begin with $ are denied, but $SYS/#"}}.Prepare()
	case len(s.SuperUsers) == 0:
		return nil
	}
	control := acl.Rule{Place: builtInPlace, Actions: []auth.Action{auth.Publish, auth.Subscribe}, Topics: []string{auth.Control + "#"}, MaxQoS: 2}
	return acl.Law{Supers: s.SuperUsers, Rules: []acl.Rule{control}, Rest: auth.Verdict{Allowed: true, Rule: "no rules are set: everything is allowed but commands"}}.Prepare()
}

// ruled reports whether anybody has said what clients may do.
func (a *access) ruled() bool { return len(a.c.Auth.Rules) > 0 || a.file != nil }

// rest returns what decides about requests of clients of the HTTP service on a listener, where acl_req
// has no word about them. There are rules, the service has them: without any here nothing more is allowed.
func (a *access) rest(l config.Listener) auth.Authorizer {
	law := a.law()
	law.Rest.Rule = "acl_req does not allow it, and no rule of section auth does"
	if !a.ruled() && !l.Local() {
		law.Rules = builtIn[:1]
	}
	return law.Prepare()
}

// law returns what the configuration and the ACL file say.
func (a *access) law() acl.Law {
	s := &a.c.Auth
	law := acl.Law{
		Supers: s.SuperUsers, Groups: make(map[string][]string), File: a.file,
		Rest: auth.Verdict{Rule: "no rule of section auth allows it"},
	}
	for _, g := range s.Groups {
		law.Groups[g.Name] = g.Users
	}
	for i, r := range s.Rules {
		law.Rules = append(law.Rules, acl.Rule{
			Place: a.c.RulePlace(i), Allow: len(r.Allow) > 0, Actions: actions(append(r.Allow, r.Deny...)),
			Topics: r.Topics, Users: r.Users, Clients: r.Clients, Groups: r.Groups, Listeners: r.Listeners,
			Addresses: r.Prefixes(), Certificates: r.Certificates, MaxQoS: byte(r.MaxQoS), NoRetain: !r.Retain,
		})
	}
	return law
}

// builtInPlace says where rules are that nobody has written.
const builtInPlace = "built in, without rules in section auth"

// lastDenied tells what others have tried.
const lastDenied = "$SYS/broker/last_denied"

// builtIn are the rules that count where there are no others, on a listener that other machines
// can reach: everything is allowed, but commands to what moves, which they do not name, and what is
// told of others.
var builtIn = []acl.Rule{ // the first also where an HTTP service says what is allowed
	{Place: builtInPlace, Actions: []auth.Action{auth.Receive}, Topics: []string{lastDenied}, MaxQoS: 2},
	{Place: builtInPlace, Allow: true, Actions: []auth.Action{auth.Publish, auth.Subscribe}, Topics: []string{"#", "$SYS/#"}, MaxQoS: 2},
}

// wide returns a warning if nobody has said what clients may do, for none of them may give commands then;
// for each topic of commands that a rule would allow if it named it, and none does; for each that only an
// HTTP service would allow; and for each that the cloud may send by a rule that does not name it.
func (a *access) wide() (warnings []string) {
	law := a.law().Prepare()
	http := a.c.Auth.HTTP
	if topics := commandTopics(a.c); len(topics) > 0 && !a.ruled() && (http == nil || http.ACL == nil) {
		warnings = append(warnings, fmt.Sprintf(`commands are denied: no rule names them. If clients are to give them, let section auth have rules: [{allow: [publish, subscribe], topics: ["#", "$SYS/#", "%s"]}]`,
			strings.Join(topics, `", "`)))
	}
	for _, t := range commandTopics(a.c) {
		warnings = append(warnings, fromCloud(a.c.Bridges, t)...)
		rule, named := law.Wide(t)
		switch {
		case named:
		case rule != "":
			warnings = append(warnings, fmt.Sprintf("commands to %s are denied: %s does not name the topic; let a rule do that, as %q", strings.TrimSuffix(t, "/set"), rule, t))
		case http != nil && http.ACL != nil:
			warnings = append(warnings, fmt.Sprintf("commands to %s are denied, whatever acl_req says: let a rule name the topic, as %q", strings.TrimSuffix(t, "/set"), t))
		}
	}
	return warnings
}

// fromCloud returns a warning for each bridge that takes in a topic of commands by rules that do not name it.
func fromCloud(bridges []config.Bridge, command string) (warnings []string) {
	for _, b := range bridges {
		wide, named := "", false
		for _, r := range b.Rules {
			f := r.LocalPrefix + r.Filter
			if r.Direction == "out" || !topic.Match(f, command) {
				continue
			}
			named = named || auth.Names(f, command)
			wide = cmp.Or(wide, f)
		}
		if wide != "" && !named {
			warnings = append(warnings, fmt.Sprintf("bridge %s takes commands to %s from the cloud by its rule for %s: if that is meant, let a rule name %q, and if not, give it filters without that",
				b.Name, strings.TrimSuffix(command, "/set"), wide, command))
		}
	}
	return warnings
}

// commandTopics returns the topics of commands to what the gateway moves.
func commandTopics(c *config.Config) (topics []string) {
	for _, o := range c.Outputs {
		topics = append(topics, o.Point+"/set")
	}
	for _, s := range c.Serial {
		for _, w := range s.Writes {
			topics = append(topics, w.Point+"/set")
		}
	}
	return topics
}

func actions(words []string) (list []auth.Action) {
	for _, w := range words {
		list = append(list, map[string]auth.Action{"publish": auth.Publish, "subscribe": auth.Subscribe, "receive": auth.Receive}[w])
	}
	return list
}
