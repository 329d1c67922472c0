package client

import (
	"errors"
	"sync"

	"gateway/broker/packet"
)

// A Session is what a client remembers from one connection to the next (clause 4.1): the
// identifiers and stages of messages that are not finished, in both directions. It is kept in
// memory and serves one Client at a time.
type Session struct {
	mu       sync.Mutex
	link     *link // of the Client that has the session, nil: none
	window   int   // messages that may be unacknowledged on this connection
	sent     int   // how many of out went over this connection
	out      []*outgoing
	lastID   uint16
	reuse    bool                // take the lowest free identifier
	received map[uint16]struct{} // QoS 2 messages that came and are not released
	answers  map[uint16]chan packet.Suback
}

// An outgoing message waits for its PUBACK, PUBREC or PUBCOMP.
type outgoing struct {
	publish  packet.Publish
	accepted bool // PUBREC has come: PUBREL is sent, and sent again
	done     func(packet.ReasonCode, error)
}

// NewSession returns an empty session.
func NewSession() *Session { return &Session{received: make(map[uint16]struct{})} }

// ReuseIDs makes the session give each message the lowest free packet identifier, as small devices
// do, and not the next one. It is called before the session is used.
func (s *Session) ReuseIDs() { s.reuse = true }

// Outstanding returns the number of messages that were taken and are not acknowledged.
func (s *Session) Outstanding() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.out)
}

// attach gives the session to a connection.
func (s *Session) attach(l *link) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != nil {
		return errors.New("the session has another connection")
	}
	s.link, s.sent = l, 0
	s.answers = make(map[uint16]chan packet.Suback)
	return nil
}

func (s *Session) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link = nil
}

// discard forgets everything and tells the senders why.
func (s *Session) discard(why error) {
	s.mu.Lock()
	out := s.out
	s.out = nil
	clear(s.received)
	s.mu.Unlock()
	for _, o := range out {
		o.done(0, why)
	}
}

// resume sends what is not finished again, in its order [MQTT-4.4.0-1], [MQTT-4.6.0-1].
func (s *Session) resume(window int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.window = window
	for _, o := range s.out {
		o.publish.Dup = true
	}
	s.pump()
}

// pump sends what the window has room for. The lock is held, here and below.
func (s *Session) pump() {
	for s.sent < min(len(s.out), s.window) {
		if o := s.out[s.sent]; o.accepted {
			s.link.put(&packet.Ack{Type: packet.PUBREL, ID: o.publish.ID})
		} else {
			s.link.put(&o.publish)
		}
		s.sent++
	}
}

// nextID returns an identifier that is not in use. The window is smaller than the number of
// identifiers, so there always is one.
func (s *Session) nextID() uint16 {
	if s.reuse {
		s.lastID = 0
	}
	for {
		s.lastID++
		if _, open := s.answers[s.lastID]; s.lastID != 0 && !open && s.find(s.lastID) < 0 {
			return s.lastID
		}
	}
}

// find returns the index of the outgoing message with this identifier, or -1. Acknowledgements
// come in order, so it is nearly always the first.
func (s *Session) find(id uint16) int {
	for i, o := range s.out {
		if o.publish.ID == id {
			return i
		}
	}
	return -1
}

// acknowledge handles PUBACK, PUBREC and PUBCOMP, and returns the message that it finishes.
func (s *Session) acknowledge(p packet.Ack) *outgoing {
	i := s.find(p.ID)
	switch {
	case i < 0 || i >= s.sent:
		if p.Type == packet.PUBREC { // finished before
			s.link.put(&packet.Ack{Type: packet.PUBREL, ID: p.ID, Reason: packet.PacketIDNotFound})
		}
		return nil
	case p.Type == packet.PUBREC && !p.Reason.Failed():
		s.out[i].accepted = true
		s.link.put(&packet.Ack{Type: packet.PUBREL, ID: p.ID})
		return nil
	}
	o := s.out[i]
	if i == 0 {
		s.out[0] = nil
		s.out = s.out[1:]
	} else {
		s.out = append(s.out[:i], s.out[i+1:]...)
	}
	s.sent--
	s.pump()
	s.link.notify()
	return o
}

// receive notes an incoming message and reports whether it is to be delivered: a QoS 2 message
// is delivered once [MQTT-4.3.3-10].
func (s *Session) receive(p packet.Publish) bool {
	if p.QoS < 2 {
		return true
	}
	_, again := s.received[p.ID]
	s.received[p.ID] = struct{}{}
	return !again
}

// release forgets a QoS 2 message [MQTT-4.3.3-11].
func (s *Session) release(id uint16) {
	answer := packet.Ack{Type: packet.PUBCOMP, ID: id}
	if _, ok := s.received[id]; !ok {
		answer.Reason = packet.PacketIDNotFound
	}
	delete(s.received, id)
	s.link.put(&answer)
}
