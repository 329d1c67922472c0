package broker

import (
	"errors"
	"net/netip"

	"gateway/broker/auth"
	"gateway/broker/packet"
)

// A Door turns away those who are not wanted before anything is done for them. Its methods are
// called from many goroutines, and do not wait. Their errors wrap auth.ErrBanned or auth.ErrTooOften.
type Door interface {
	// Knock decides about a connection from the network, right after it was accepted. The address
	// is not valid for connections from this machine.
	Knock(from netip.Addr) error
	// Enter decides about a client by what it shows in CONNECT, before it is authenticated.
	Enter(a *auth.Attempt) error
	// Met tells, once for each Enter that returned nil, what became of the attempt: who the client
	// is, nil if it does not come in, and whether that is for what it showed. It has the last word
	// about a client that would come in.
	Met(a *auth.Attempt, c *auth.Client, wrong bool) error
}

// open is a door without anybody at it.
type open struct{}

func (open) Knock(netip.Addr) error                      { return nil }
func (open) Enter(*auth.Attempt) error                   { return nil }
func (open) Met(*auth.Attempt, *auth.Client, bool) error { return nil }

// knock lets a connection in, or counts and logs that it may not.
func knock(s *Server, from netip.Addr, listener string) bool {
	err := s.door.Knock(from)
	if err == nil {
		return true
	}
	turned(&s.stats, err)
	if untold, due := s.knocks.due(); due {
		s.log.Warn("connection refused", "listener", listener, "from", from, "reason", err, "others_before", untold)
	}
	return false
}

// turnedAway counts and logs a client that may not come in, and returns what it is told.
func turnedAway(c *conn, p *packet.Connect, err error) error {
	turned(&c.srv.stats, err)
	return refused(c, p, err)
}

func turned(s *Stats, err error) {
	if errors.Is(err, auth.ErrBanned) {
		s.Banned.Add(1)
	} else {
		s.HeldOff.Add(1)
	}
}
