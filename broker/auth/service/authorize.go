package service

import (
	"context"
	"strconv"
	"strings"

	"gateway/broker/auth"
	"gateway/broker/auth/template"
)

// Rules are what the service says about publishing and subscribing.
type Rules struct{ s *Service }

// Rules returns an Authorizer that asks acl_req; ok is false if there is none to ask.
func (s *Service) Rules() (r Rules, ok bool) { return Rules{s}, s.acl != nil }

// Authorize asks the service, unless it has answered that lately. While it cannot be asked, with
// Cached, a client may do what it was allowed before. Who administers the gateway is not for the
// service to say: many a one allows everything.
func (r Rules) Authorize(ctx context.Context, c *auth.Client, q auth.Request) auth.Verdict {
	s := r.s
	if strings.HasPrefix(q.Topic, auth.Control) {
		return auth.Verdict{}
	}
	v := s.request(c, q)
	w := who{c.ID, c.User}
	k := s.cache.key(v, s.acl)
	got, ok := s.cache.get(k)
	var err error
	if !ok {
		got, err = s.once(ctx, k, func(ctx context.Context) (answer, error) { return s.permission(ctx, k, w, v) })
	}
	switch {
	case err == nil:
	case s.o.OnError == Next:
		return auth.Verdict{Unsure: true}
	case s.o.OnError == Cached && s.grace.granted(w, name(v, s.acl)):
		return allowed(q, "the HTTP service does not answer, and has allowed this before")
	default:
		s.o.Log.Debug("the HTTP service does not say whether a client may do something", "client", c.ID, "topic", q.Topic, "error", err)
		return auth.Verdict{Rule: "the HTTP service does not answer", Unsure: true} // the client is told this: no addresses
	}
	switch got.result {
	case allow:
		return allowed(q, "the HTTP service allows it")
	case ignore:
		return auth.Verdict{}
	}
	return auth.Verdict{Rule: "the HTTP service refuses it: " + got.why}
}

// allowed is the verdict about what the service allows. Many a one allows everything, which is no word
// for a command: that takes a rule, too.
func allowed(q auth.Request, why string) auth.Verdict {
	if q.Command {
		return auth.Verdict{}
	}
	return auth.Verdict{Allowed: true, Rule: why}
}

// permission asks whether a client may do something.
func (s *Service) permission(ctx context.Context, k key, w who, v *template.Values) (answer, error) {
	got, err := s.ask(ctx, s.acl, v)
	if err != nil {
		return answer{}, err
	}
	life := s.o.KeepNo
	if got.result == allow {
		life = s.o.Keep
	}
	s.cache.put(k, w.client, w.user, got, life)
	if s.grace != nil && got.result == allow {
		s.grace.grant(w, name(v, s.acl))
	} else if s.grace != nil {
		s.grace.withdraw(w, name(v, s.acl))
	}
	return got, nil
}

// request returns what there is to tell of what a client wants to do. Its password is not known
// any more.
func (s *Service) request(c *auth.Client, q auth.Request) *template.Values {
	v := &template.Values{template.Username: c.User, template.ClientID: c.ID, template.Protocol: "MQTT", template.Topic: strings.TrimPrefix(q.Topic, s.o.Listeners[c.Listener].Mount), template.Access: "1", template.Action: "subscribe"}
	if q.Action == auth.Publish {
		v[template.Access], v[template.Action], v[template.Retain] = "2", "publish", strconv.FormatBool(q.Retain)
	}
	v[template.QoS] = strconv.Itoa(int(q.QoS))
	if c.Addr.IsValid() {
		v[template.Address] = auth.Address(c.Addr).String()
	}
	if x := c.Certificate; x != nil {
		v[template.CommonName], v[template.Subject] = x.Subject.CommonName, x.Subject.String()
	}
	s.place(v, c.Listener)
	return v
}
