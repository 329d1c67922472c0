package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"gateway/broker/auth"
	"gateway/broker/auth/service"
	"gateway/broker/session"
	"gateway/config"
)

// A memory knows the clients of stored sessions again.
type memory struct {
	listeners []config.Listener
	access    *access
	guests    *guestbook
}

// recall returns the client that a session belongs to, and what it may do now.
func (m memory) recall(o *session.Owner) (*auth.Client, auth.Authorizer, error) {
	i := slices.IndexFunc(m.listeners, func(l config.Listener) bool { return l.Name == o.Listener })
	if i < 0 {
		return nil, nil, fmt.Errorf("there is no listener %q any more", o.Listener)
	}
	c := &auth.Client{
		Identity: auth.Identity{User: o.User, Groups: o.Groups, Super: o.Super, By: o.By},
		ID:       o.Client, Listener: o.Listener,
	}
	var err error
	if o.Addr != "" {
		if c.Addr, err = netip.ParseAddr(o.Addr); err != nil {
			return nil, nil, fmt.Errorf("its address: %w", err)
		}
		c.Addr = auth.Address(c.Addr) // an early version kept the zone
	}
	if o.Certificate != nil {
		if c.Certificate, err = x509.ParseCertificate(o.Certificate); err != nil {
			return nil, nil, fmt.Errorf("its certificate: %w", err)
		}
	}
	if o.Rules != nil {
		if o.By != service.By || m.guests.service == nil {
			return nil, nil, errors.New("nobody knows the rules any more that came with its login")
		}
		if c.Rules, err = m.guests.service.Recall(o.Rules, o.Listener); err != nil {
			return nil, nil, err
		}
	}
	l := m.listeners[i]
	return c, m.guests.rules(l, m.access), nil
}
