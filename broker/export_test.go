package broker

import "gateway/broker/packet"

// Explain returns what a client that wants to know is told of a failure.
func Explain(reason packet.ReasonCode) string {
	l := &link{explains: true}
	l.version = packet.V5
	return explain(l, &packet.Ack{Type: packet.PUBREC, ID: 1, Reason: reason}, reason, "")
}

// HoldTurns keeps everybody at the turnstile who has had a turn, until release is called. waiting returns
// how many there are.
func (s *Server) HoldTurns() (waiting func() int, release func()) {
	t := s.turnstile
	t.mu.Lock()
	if t.asked {
		t.waiting++
		t.next.Wait()
	}
	t.asked = true
	t.mu.Unlock()
	waiting = func() int {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.waiting
	}
	return waiting, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.asked = t.waiting > 0; t.asked {
			t.waiting--
			t.next.Signal()
		}
	}
}
