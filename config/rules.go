package config

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"gateway/broker/topic"
)

// maxRules bounds all rules of a file, as each is compared with each.
const maxRules = 1000

func (k network) rules(b Bridge, at string) {
	k.want(len(b.Rules) > 0, at+".rules", "nothing would cross this bridge; add a rule")
	seen := make(map[string]string)
	for i, r := range b.Rules {
		key := fmt.Sprintf("%s.rules[%d]", at, i)
		if p := filterProblem(r.Filter); p != "" && r.Filter != "" {
			k.want(false, key+".filter", "%s", p)
		}
		k.prefix(r.LocalPrefix, key+".local_prefix")
		k.prefix(r.RemotePrefix, key+".remote_prefix")
		same := strings.Join([]string{r.Direction, r.Filter, r.LocalPrefix, r.RemotePrefix}, "\n")
		first, double := seen[same]
		k.want(!double, key, "says the same as %s on line %d; remove one", first, k.line(first))
		seen[same] = key
		if j := replayedTwice(b.Rules[:i], r); j >= 0 {
			other := fmt.Sprintf("%s.rules[%d]", at, j)
			k.want(false, key+".replay", "%s on line %d has some of the same topics and another replay; give both the same", other, k.line(other))
		}
	}
}

// replayedTwice returns the number of a rule with some of the topics of another and another replay, -1
// if there is none. Their messages would be sent twice.
func replayedTwice(rules []Rule, r Rule) int {
	return slices.IndexFunc(rules, func(q Rule) bool {
		return r.Direction != "in" && q.Direction != "in" && r.Replay != q.Replay &&
			topic.Overlap(r.LocalPrefix+r.Filter, q.LocalPrefix+q.Filter)
	})
}

// prefix checks the front part of a topic.
func (k network) prefix(s, key string) {
	if s == "" {
		return
	}
	k.want(strings.HasSuffix(s, "/"), key, "ends with /, as %s: it is put before the topic as it is", quoteShort(s+"/"))
	if p := topicProblem(strings.TrimSuffix(s, "/")); p != "" {
		k.want(false, key, "%s", p)
	}
}

// loops finds rules that would carry one message round and round, or bring back what was sent.
// An upstream broker returns what its bridge publishes when a rule subscribes to it, unless
// the bridge is announced. Two bridges to one broker do not know each other's messages.
func (k network) loops(c *Config) {
	type place struct {
		Rule
		bridge int
		key    string
	}
	var in, out []place
	for i, b := range c.Bridges {
		for j, r := range b.Rules {
			p := place{r, i, fmt.Sprintf("bridges[%d].rules[%d]", i, j)}
			if r.Direction != "out" {
				in = append(in, p)
			}
			if r.Direction != "in" {
				out = append(out, p)
			}
		}
	}
	if len(in)+len(out) > maxRules {
		k.want(false, "bridges", "more than %d rules; use filters with wildcards", maxRules)
		return
	}
	for _, i := range in {
		for _, o := range out {
			from, to := c.Bridges[i.bridge], c.Bridges[o.bridge]
			if from.URL != to.URL || !topic.Overlap(i.RemotePrefix+i.Filter, o.RemotePrefix+o.Filter) {
				continue
			}
			if i.bridge == o.bridge {
				k.want(from.Announce || from.Version == "5.0", i.key, "the cloud would send back what %s on line %d sends; "+
					"give the two directions different remote topics, or set version: 5.0, or announce: true if the cloud is mosquitto", o.key, k.line(o.key))
				continue
			}
			k.want(!topic.Overlap(i.LocalPrefix+i.Filter, o.LocalPrefix+o.Filter), i.key, "loops with %s on line %d: "+
				"what comes in goes out again and returns; give the two directions different topics", o.key, k.line(o.key))
		}
	}
}

// maxTopic leaves room for prefixes and suffixes below the 65,535 bytes of the wire.
const maxTopic = 1024

// topicProblem tells why s cannot be a topic of the gateway's own.
func topicProblem(s string) string {
	switch {
	case s == "":
		return "a topic must not be empty"
	case len(s) > maxTopic:
		return fmt.Sprintf("a topic of at most %d bytes", maxTopic)
	case strings.ContainsAny(s, "+#"):
		return fmt.Sprintf("a topic without wildcards + and #, not %s", quoteShort(s))
	case strings.HasPrefix(s, "$"):
		return fmt.Sprintf("topics that begin with $ are the broker's own; choose another than %s", quoteShort(s))
	case strings.HasPrefix(s, "/"), strings.HasSuffix(s, "/"), strings.Contains(s, "//"):
		return fmt.Sprintf("a topic without empty levels, as greenhouse/air, not %s", quoteShort(s))
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Sprintf("a topic of printable characters, not %s", quoteShort(s))
	}
	return ""
}

// filterProblem tells why s cannot be the filter of a rule.
func filterProblem(s string) string {
	if len(s) > maxTopic || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Sprintf("a filter of at most %d printable bytes, not %s", maxTopic, quoteShort(s))
	}
	if err := topic.ValidFilter(s); err != nil {
		return fmt.Sprintf("%v; + and # stand for whole levels, as in greenhouse/+/set or greenhouse/#", err)
	}
	if strings.HasPrefix(s, "$share/") {
		return "a shared subscription is not a filter of a rule; drop $share and the group"
	}
	return ""
}
