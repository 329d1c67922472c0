package broker

import (
	"strings"

	"gateway/broker/packet"
)

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

// Trim does what is done every 10 s.
func (s *Server) Trim() { trimAll(s) }

// StoredBytes returns what is published as store/messages/bytes.
func (s *Server) StoredBytes() int64 { return (&reporter{srv: s}).gauges()["store/messages/bytes"] }

// Refusals returns a function for what is published below refused.
func (s *Server) Refusals() func() map[string]int64 {
	return func() map[string]int64 {
		found := make(map[string]int64)
		for name, n := range (&reporter{srv: s}).counters() {
			if strings.HasPrefix(name, "refused/") {
				found[name] = n.Load()
			}
		}
		return found
	}
}
