package broker

import (
	"encoding/json"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gateway/broker/auth"
	"gateway/broker/packet"
	"gateway/broker/topic"
)

// An access decides what the client of one connection may do, and tells of what it may not. A nil
// access is one of the gateway's own clients, who may do everything.
type access struct {
	client  *auth.Client
	rules   auth.Authorizer // nil: everything is allowed
	filters bool            // it may not receive all that it subscribes to
	srv     *Server
}

func newAccess(s *Server, client *auth.Client, rules auth.Authorizer) *access {
	return &access{client: client, rules: rules, filters: auth.Filters(client, rules), srv: s}
}

// denied returns why the client may not do something; it is empty if it may. It may block.
func (a *access) denied(r auth.Request) string {
	if a == nil {
		return ""
	}
	return a.verdict(r).Rule
}

// verdict decides about a request, and notes it if it is denied; only then it has a Rule.
func (a *access) verdict(r auth.Request) auth.Verdict {
	v := auth.Decide(a.srv.ctx, a.client, a.rules, r)
	if v.Allowed {
		return auth.Verdict{Allowed: true}
	}
	a.srv.denials.count[r.Action].Add(1)
	a.srv.denials.note(a.client, r, v.Rule)
	return v
}

// may reports whether the client may have a message. It does not block.
func (a *access) may(topic string, qos packet.QoS) bool {
	return a == nil || !a.filters ||
		auth.Decide(a.srv.ctx, a.client, a.rules, auth.Request{Action: auth.Receive, Topic: topic, QoS: byte(qos)}).Allowed
}

// receives is may, and counts what the client may not have.
func (a *access) receives(topic string, qos packet.QoS) bool {
	if a.may(topic, qos) {
		return true
	}
	a.srv.denials.count[auth.Receive].Add(1)
	return false
}

// publish returns why the client may not publish a message; it is empty if it may.
func (a *access) publish(p *packet.Publish) string {
	if a == nil {
		return ""
	}
	return a.denied(a.publication(p.Topic, p.QoS, p.Retain))
}

// will returns why the client may not have a will; it is empty if it may.
func (a *access) will(w *packet.Will) string {
	if a == nil || w == nil {
		return ""
	}
	return a.denied(a.publication(w.Topic, w.QoS, w.Retain))
}

// stands reports whether a will that the client has may be published: nobody says that it may not.
func (a *access) stands(w *packet.Will) bool {
	if a == nil {
		return true
	}
	v := a.verdict(a.publication(w.Topic, w.QoS, w.Retain))
	return v.Allowed || v.Unsure
}

func (a *access) publication(topic string, qos packet.QoS, retain bool) auth.Request {
	return auth.Request{Action: auth.Publish, Topic: topic, QoS: byte(qos), Retain: retain, Command: a.srv.commands[topic]}
}

// filter returns why the client may not subscribe with a filter; it is empty if it may.
func (a *access) filter(f string, qos packet.QoS) string {
	return a.denied(toSubscribe(f, qos))
}

// keeps reports whether the client may keep a subscription that it has: nobody has said that it may
// not. A service that is away for a while must not cost it what it would get later.
func (a *access) keeps(f string) bool {
	v := a.verdict(toSubscribe(f, 0))
	return v.Allowed || v.Unsure
}

func toSubscribe(f string, qos packet.QoS) auth.Request {
	if _, rest, shared, err := topic.ParseShared(f); shared && err == nil {
		f = rest
	}
	return auth.Request{Action: auth.Subscribe, Topic: f, QoS: byte(qos)}
}

// subscribe says which filters of a SUBSCRIBE the client may not have. Those that are not valid
// are refused for that.
func (a *access) subscribe(p *packet.Subscribe) (d denied) {
	for i, f := range p.Filters {
		if topic.ValidFilter(f.Filter) != nil {
			continue
		}
		if why := a.filter(f.Filter, f.QoS); why != "" {
			if d.filters == nil {
				d.filters, d.first = make(map[int]bool), why
			}
			d.filters[i] = true
		}
	}
	return d
}

// A denied is the part of a SUBSCRIBE that the client may not have.
type denied struct {
	filters map[int]bool // by their place
	first   string       // why the first of them is denied
}

// denials count what clients were not allowed to do, and know the last of it. What a client is not
// allowed to receive is counted only: a wide subscription to what may partly be read is no offence.
type denials struct {
	count [3]atomic.Int64 // by action
	news  signal          // told when there is another last one

	mu   sync.Mutex
	last denial
}

// A denial is one thing that a client was not allowed to do.
type denial struct {
	At       time.Time  `json:"at"`
	Client   string     `json:"client"`
	User     string     `json:"user,omitempty"`
	Listener string     `json:"listener"`
	From     netip.Addr `json:"from,omitzero"`
	Action   string     `json:"action"`
	Topic    string     `json:"topic"`
	Reason   string     `json:"reason"`
}

// note notes a denial.
func (d *denials) note(c *auth.Client, r auth.Request, reason string) {
	d.mu.Lock()
	d.last = denial{time.Now(), c.ID, c.User, c.Listener, c.Addr, r.Action.String(), r.Topic, reason}
	d.mu.Unlock()
	d.news.give()
}

// text returns the last denial as JSON, empty if there was none.
func (d *denials) text() string {
	d.mu.Lock()
	last := d.last
	d.mu.Unlock()
	if last.At.IsZero() {
		return ""
	}
	b, err := json.Marshal(last)
	if err != nil {
		return "" // there is nothing in it that JSON has no form for
	}
	return string(b)
}
