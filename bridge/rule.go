package bridge

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"gateway/broker/packet"
	"gateway/broker/topic"
)

// A Direction says which way a rule carries messages.
type Direction byte

// The directions.
const (
	Out  Direction = 1 << iota // from the local broker to the cloud
	In                         // from the cloud to the local broker
	Both = Out | In
)

// String returns the word that stands in configuration files.
func (d Direction) String() string {
	switch d {
	case Out:
		return "out"
	case In:
		return "in"
	case Both:
		return "both"
	}
	return fmt.Sprintf("direction %d", byte(d))
}

// A Rule carries the topics t that match Filter: LocalPrefix+t here is RemotePrefix+t in the
// cloud. Of several rules that match a topic, the first one counts.
type Rule struct {
	Direction    Direction
	Filter       string
	LocalPrefix  string
	RemotePrefix string
	// QoS is the highest QoS that is asked for. Outgoing messages are sent with at most this
	// QoS; incoming ones keep the QoS at which the cloud sends them.
	QoS packet.QoS
	// LiveFirst lets fresh messages overtake those that waited for the end of an outage.
	LiveFirst bool
}

func (r Rule) local() string  { return r.LocalPrefix + r.Filter }
func (r Rule) remote() string { return r.RemotePrefix + r.Filter }

// check reports what is wrong with the rule.
func (r Rule) check() error {
	switch {
	case r.Direction < Out || r.Direction > Both:
		return errors.New("direction must be out, in or both")
	case r.QoS > 2:
		return fmt.Errorf("QoS %d does not exist, use 0, 1 or 2", r.QoS)
	case strings.ContainsAny(r.LocalPrefix+r.RemotePrefix, "+#\x00"):
		return errors.New("a prefix must not contain + or #: put them into the filter")
	}
	for _, f := range []string{r.local(), r.remote()} {
		if err := topic.ValidFilter(f); err != nil {
			return fmt.Errorf("topic filter %q: %w", f, err)
		}
		if _, _, shared, _ := topic.ParseShared(f); shared {
			return fmt.Errorf("topic filter %q: a bridge cannot share a subscription", f)
		}
	}
	if r.Direction&In != 0 && strings.HasPrefix(r.local(), "$") {
		return fmt.Errorf("local topic %q: topics that begin with $ belong to the broker, choose another local prefix", r.local())
	}
	return nil
}

// rules are the rules of one bridge, in order.
type rules []Rule

// check reports all that is wrong with the rules. Unless the cloud knows that we are a bridge
// it sends back what matches an incoming rule, our own messages included.
func (rs rules) check(announced bool) error {
	var problems []error
	for i, r := range rs {
		if err := r.check(); err != nil {
			problems = append(problems, fmt.Errorf("rule %d (%s %q): %w", i+1, r.Direction, r.Filter, err))
		}
	}
	for i, r := range rs {
		for j, q := range rs[:i] {
			if r.LiveFirst != q.LiveFirst && r.Direction&q.Direction&Out != 0 && topic.Overlap(r.local(), q.local()) {
				problems = append(problems, fmt.Errorf("rules %d and %d: a message to both %q and %q would be sent twice: give both the same replay",
					j+1, i+1, q.local(), r.local()))
			}
		}
	}
	if announced || problems != nil {
		return errors.Join(problems...)
	}
	for i, out := range rs {
		for j, in := range rs {
			if out.Direction&Out != 0 && in.Direction&In != 0 && topic.Overlap(out.remote(), in.remote()) {
				problems = append(problems, fmt.Errorf("rules %d and %d: the cloud would send back what the bridge sends (%q meets %q): "+
					"use different remote topics for the two directions, or announce the bridge if the cloud is a broker that knows bridges, such as mosquitto",
					i+1, j+1, out.remote(), in.remote()))
			}
		}
	}
	return errors.Join(problems...)
}

// out maps a local topic to the cloud's. It returns the rule that does.
func (rs rules) out(local string) (rule Rule, remote string, ok bool) {
	for _, r := range rs {
		if t, ok := strings.CutPrefix(local, r.LocalPrefix); ok && r.Direction&Out != 0 && topic.Match(r.local(), local) {
			return r, r.RemotePrefix + t, fits(r.RemotePrefix + t)
		}
	}
	return Rule{}, "", false
}

// in maps a topic of the cloud to the local one. It is none of those that begin with $, whatever
// prefix is taken away: by them the gateway is administered.
func (rs rules) in(remote string) (local string, ok bool) {
	for _, r := range rs {
		if t, ok := strings.CutPrefix(remote, r.RemotePrefix); ok && r.Direction&In != 0 && topic.Match(r.remote(), remote) {
			local := r.LocalPrefix + t
			return local, fits(local) && local[0] != '$'
		}
	}
	return "", false
}

// answerUp maps the response topic of a message that goes up: the answer is published in the cloud,
// and must come down by an incoming rule. A topic to which no rule brings it stays as it is.
func (rs rules) answerUp(local string) string {
	if topic.ValidName(local) != nil {
		return local
	}
	for _, r := range rs {
		rest, ok := strings.CutPrefix(local, r.LocalPrefix)
		if !ok || r.Direction&In == 0 || !topic.Match(r.local(), local) {
			continue
		}
		if back, ok := rs.in(r.RemotePrefix + rest); ok && back == local && fits(r.RemotePrefix+rest) {
			return r.RemotePrefix + rest
		}
	}
	return local
}

// answerDown maps the response topic of a message that comes down: the answer is published here, and
// must go up by an outgoing rule. A topic to which no rule brings it stays as it is.
func (rs rules) answerDown(remote string) string {
	if topic.ValidName(remote) != nil {
		return remote
	}
	for _, r := range rs {
		rest, ok := strings.CutPrefix(remote, r.RemotePrefix)
		local := r.LocalPrefix + rest
		if !ok || r.Direction&Out == 0 || !topic.Match(r.remote(), remote) || !fits(local) || local[0] == '$' {
			continue
		}
		if _, back, ok := rs.out(local); ok && back == remote {
			return local
		}
	}
	return remote
}

// fits reports whether a mapped topic has a length that can be sent [MQTT-4.7.3-1],
// [MQTT-4.7.3-3].
func fits(name string) bool { return name != "" && len(name) <= topic.MaxLength }

// liveFirst reports whether any rule sends fresh messages first.
func (rs rules) liveFirst() bool {
	return slices.ContainsFunc(rs, func(r Rule) bool { return r.LiveFirst && r.Direction&Out != 0 })
}

// lane returns the local subscriptions of the rules that are sent in strict order, or of those
// that are sent live first.
func (rs rules) lane(live bool) []packet.Subscription {
	var some rules
	for _, r := range rs {
		if r.LiveFirst == live {
			some = append(some, r)
		}
	}
	return some.subscriptions(Out)
}

// subscriptions returns the filters of one direction: local ones for Out, the cloud's for In.
func (rs rules) subscriptions(d Direction) []packet.Subscription {
	var subs []packet.Subscription
	seen := make(map[string]bool)
	for _, r := range rs {
		filter := r.local()
		if d == In {
			filter = r.remote()
		}
		if r.Direction&d == 0 || seen[filter] {
			continue
		}
		seen[filter] = true
		subs = append(subs, packet.Subscription{
			Filter: filter, QoS: r.QoS,
			NoLocal:           true, // what came from the cloud does not go back
			RetainAsPublished: true, // the cloud retains what was retained here
			RetainHandling:    1,    // retained messages are queued once, not at every start
		})
	}
	return subs
}
