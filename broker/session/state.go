package session

import "gateway/broker/packet"

// A State is the protocol state of one session: what must be kept while its client is away
// (5.0, 4.1). It is not safe for concurrent use.
type State struct {
	Client  string
	Durable bool // it outlives the connection and the process
	Inbox   Inbox
	Queue   Queue
}

// A Step is what an incoming acknowledgement leads to.
type Step struct {
	// Durable is to be committed, nil if nothing is. Only a Reply with Wait waits for it.
	Durable Change
	Reply   packet.Ack // no reply when its Type is 0
	Wait    bool
	Wake    bool // the window has moved: more may be sent
}

// Puback handles a PUBACK: the message is delivered. One for an unknown identifier is ignored;
// it may follow a session that was cleaned.
func (s *State) Puback(a packet.Ack) (Step, error) {
	e := s.Queue.Find(a.ID)
	if e == nil {
		return Step{}, nil
	}
	if e.QoS != 1 {
		return Step{}, &packet.Error{Clause: "MQTT-4.3.3-3", Reason: packet.ProtocolError, Text: "PUBACK for a message of QoS 2"}
	}
	return s.finish(e), nil
}

// Pubrec handles a PUBREC: the receiver has the message, so from now on only PUBREL may be sent,
// and it leaves when that is durable; else a crash would send the message again [MQTT-4.3.3-6].
// A failure ends the delivery [MQTT-4.3.3-4].
func (s *State) Pubrec(a packet.Ack) (Step, error) {
	rel := packet.Ack{Type: packet.PUBREL, ID: a.ID}
	e := s.Queue.Find(a.ID)
	switch {
	case e == nil && a.Reason.Failed():
		return Step{}, nil
	case e == nil:
		rel.Reason = packet.PacketIDNotFound
		return Step{Reply: rel}, nil
	case e.QoS != 2:
		return Step{}, &packet.Error{Clause: "MQTT-4.3.2-3", Reason: packet.ProtocolError, Text: "PUBREC for a message of QoS 1"}
	case a.Reason.Failed():
		return s.finish(e), nil
	}
	step := Step{Reply: rel, Wait: s.Durable}
	if e.Stage == Pending && s.Durable {
		step.Durable = &Advanced{Client: s.Client, Position: e.Position, Stage: Accepted}
	}
	e.Stage = Accepted
	return step, nil
}

// Unaccept takes back a PUBREC that could not be made durable: the message is Pending again. A new
// connection may have begun meanwhile.
func (s *State) Unaccept(id uint16) {
	if e := find(s.Queue.entries, id); e != nil && e.Stage == Accepted {
		e.Stage = Pending
	}
}

// Pubcomp handles a PUBCOMP: a QoS 2 delivery is complete.
func (s *State) Pubcomp(a packet.Ack) (Step, error) {
	e := s.Queue.Find(a.ID)
	if e == nil {
		return Step{}, nil
	}
	if e.Stage == Pending && e.Frees {
		return Step{}, nil // its identifier is free
	}
	if e.Stage != Accepted {
		return Step{}, &packet.Error{Clause: "MQTT-4.3.3-5", Reason: packet.ProtocolError, Text: "PUBCOMP before PUBREC"}
	}
	return s.finish(e), nil
}

// Pubrel handles a PUBREL: the identifier may be used for another message. PUBCOMP waits until
// that is durable; else a crash would take the next message for a repetition of this one.
func (s *State) Pubrel(a packet.Ack) Step {
	comp := packet.Ack{Type: packet.PUBCOMP, ID: a.ID}
	if !s.Inbox.Release(a.ID) {
		comp.Reason = packet.PacketIDNotFound
		return Step{Reply: comp, Wait: s.Durable}
	}
	step := Step{Reply: comp, Wait: s.Durable}
	if s.Durable {
		step.Durable = &Released{Client: s.Client, ID: a.ID}
	}
	return step
}

// GiveUp ends the delivery of an entry that will not be sent: it expired, or is too large.
func (s *State) GiveUp(e *Entry) Step { return s.finish(e) }

func (s *State) finish(e *Entry) Step {
	step := Step{Wake: true}
	if s.Durable {
		step.Durable = &Advanced{Client: s.Client, Position: e.Position, Stage: Done}
	}
	s.Queue.Finish(e)
	return step
}
