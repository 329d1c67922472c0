package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"gateway/broker/auth"
	"gateway/broker/topic"
)

// A rule is an entry of "acl" in an answer, as EMQX 5 has them.
type rule struct {
	Permission string    `json:"permission"`       // allow, deny
	Action     string    `json:"action,omitempty"` // publish, subscribe, all
	Topic      string    `json:"topic"`            // a filter with ${clientid} and ${username}; after "eq " it is that text only
	QoS        numbers   `json:"qos,omitempty"`    // none: any
	Retain     retaining `json:"retain,omitempty"`
}

func (r *rule) check() error {
	filter, exact := strings.CutPrefix(r.Topic, "eq ")
	switch {
	case r.Permission != "allow" && r.Permission != "deny":
		return fmt.Errorf("permission is %.20q, not allow or deny", r.Permission)
	case !slices.Contains([]string{"", "all", "publish", "subscribe"}, r.Action):
		return fmt.Errorf("action is %.20q, not publish, subscribe or all", r.Action)
	case !exact && topic.ValidFilter(filter) != nil:
		return fmt.Errorf("topic: %w", topic.ValidFilter(filter))
	}
	return nil
}

// numbers is a list of numbers; one alone needs no brackets.
type numbers []byte

// UnmarshalJSON reads 1, or [0, 1].
func (n *numbers) UnmarshalJSON(b []byte) error {
	var list []int
	if err := json.Unmarshal(b, &list); err != nil {
		list = []int{0}
		if err := json.Unmarshal(b, &list[0]); err != nil {
			return err
		}
	}
	*n = nil
	for _, q := range list {
		if q < 0 || q > 2 {
			return fmt.Errorf("a quality of service of %d", q)
		}
		*n = append(*n, byte(q))
	}
	return nil
}

// MarshalJSON writes a list.
func (n numbers) MarshalJSON() ([]byte, error) {
	list := make([]int, len(n))
	for i, q := range n {
		list[i] = int(q)
	}
	return json.Marshal(list)
}

// retaining is whether a rule is for retained messages: "true", "false", or "" for both.
type retaining string

// UnmarshalJSON reads true, false, 1, 0 or "all".
func (r *retaining) UnmarshalJSON(b []byte) error {
	switch string(bytes.Trim(b, `"`)) {
	case "true", "1":
		*r = "true"
	case "false", "0":
		*r = "false"
	case "all", "null":
		*r = ""
	default:
		return errors.New("retain is true, false or all")
	}
	return nil
}

// rules are what the service has said about one client together with its identity.
type rules struct {
	list  []rule
	mount string // of the client's listener, which the service does not see
}

// MarshalJSON returns what Recall reads.
func (rs rules) MarshalJSON() ([]byte, error) { return json.Marshal(rs.list) }

// Recall returns the rules that came with the identity of a client of a listener, from what they were
// marshaled to.
func (s *Service) Recall(text []byte, listener string) (auth.Authorizer, error) {
	rs := rules{mount: s.o.Listeners[listener].Mount}
	if err := json.Unmarshal(text, &rs.list); err != nil {
		return nil, fmt.Errorf("stored rules of the HTTP service: %w", err)
	}
	if len(rs.list) == 0 {
		return nil, errors.New("stored rules of the HTTP service: there are none")
	}
	for i := range rs.list {
		if err := rs.list[i].check(); err != nil {
			return nil, fmt.Errorf("stored rules of the HTTP service: acl[%d]: %w", i, err)
		}
	}
	return rs, nil
}

// Authorize decides by the first rule that fits; if none does, others decide.
func (rs rules) Authorize(_ context.Context, c *auth.Client, r auth.Request) auth.Verdict {
	r.Topic = strings.TrimPrefix(r.Topic, rs.mount)
	for i := range rs.list {
		switch rule := &rs.list[i]; {
		case !rule.fits(c, r):
		case rule.Permission == "allow": // each message is asked about: no text is made for it
			return auth.Verdict{Allowed: true, Rule: "the service's answer has a rule that allows it"}
		default:
			return auth.Verdict{Rule: fmt.Sprintf("%s %s %s, acl[%d] of the service's answer", rule.Permission, rule.Action, rule.Topic, i)}
		}
	}
	return auth.Verdict{}
}

func (r *rule) fits(c *auth.Client, q auth.Request) bool {
	if r.Action == "publish" && q.Action != auth.Publish || r.Action == "subscribe" && q.Action != auth.Subscribe ||
		len(r.QoS) > 0 && !slices.Contains(r.QoS, q.QoS) ||
		r.Retain != "" && q.Action == auth.Publish && (r.Retain == "true") != q.Retain {
		return false
	}
	if exact, ok := strings.CutPrefix(r.Topic, "eq "); ok {
		return exact == q.Topic
	}
	if q.Command && r.Permission == "allow" && !auth.Names(r.Topic, q.Topic) {
		return false
	}
	return fits(r.levels(c), strings.Split(q.Topic, "/"), r.Permission == "deny")
}

// levels returns the levels of the filter for a client. In a rule that allows, what it calls itself is text
// within one level, or the rule fits nothing. A rule that denies counts for any name: it can only deny more,
// and nobody is to get around it by what he calls himself.
func (r *rule) levels(c *auth.Client) []string {
	names := strings.NewReplacer("${clientid}", c.ID, "${username}", c.User)
	if r.Permission == "deny" {
		return strings.Split(names.Replace(r.Topic), "/")
	}
	levels := strings.Split(r.Topic, "/")
	for i, level := range levels {
		own := names.Replace(level)
		if own != level && (strings.ContainsAny(own, "+#/") || i == 0 && strings.HasPrefix(own, "$")) {
			own = "\x00" // fits nothing
		}
		levels[i] = own
	}
	return levels
}

// fits reports whether a rule's filter says something about a topic, or about all topics of a
// filter that a client wants to subscribe to. A rule that denies has to do with a filter of which
// it covers a part.
func fits(filter, wanted []string, part bool) bool {
	if strings.HasPrefix(wanted[0], "$") && (filter[0] == "+" || filter[0] == "#") {
		return false // [MQTT-4.7.2-1]
	}
	for i, f := range filter {
		if f == "#" {
			return true
		}
		if i == len(wanted) {
			return false
		}
		switch w := wanted[i]; {
		case w == "#":
			return part
		case f == "+" || f == w || part && w == "+":
		default:
			return false
		}
	}
	// The filter a/# of a subscription has the topic a, too.
	return len(wanted) == len(filter) || part && len(wanted) == len(filter)+1 && wanted[len(filter)] == "#"
}
