package broker

import (
	"errors"
	"net"
	"os"
	"time"
)

// A silence is the time since the last complete packet of a client. The keep alive bounds it.
//
// To move the deadline of a connection takes five times as long as to decode a small packet.
// Therefore that of a connection from which can be read on after it, a plain socket or TLS, is an
// alarm at which the silence is looked at; others have theirs moved.
type silence struct {
	most    time.Duration // 1.5 times the keep alive, 0: any
	since   time.Time
	fresh   int64 // when one without alarm has rested last, in Unix milliseconds
	alarmed bool  // its deadline is an alarm
	rest    bool  // the client is known to be quiet
}

// How long after a packet the silence is first looked at, and how long after that if it was none.
// Without an alarm nobody knows when it has begun: such a connection rests after a packet, but only
// so often.
const (
	quietTime = 100 * time.Millisecond
	busyTime  = 2 * time.Second
	freshTime = time.Second
)

// errQuiet says that nothing has come for a while, and that the connection may go on.
var errQuiet = errors.New("nothing has come for a while")

// begin starts the first silence, after the handshake.
func (s *silence) begin(nc net.Conn) {
	s.alarmed, s.rest = true, true
	if p, ok := nc.(interface{ DeadlinePasses() bool }); ok {
		s.alarmed = p.DeadlinePasses()
	}
	_ = nc.SetReadDeadline(time.Time{})
	_ = s.broken(nc)
	s.fresh = 0 // it rests after the next packet, often the last for long
}

// broken starts anew, as a packet is complete [MQTT-3.1.2-22]. It returns errQuiet if the connection
// is to rest now.
func (s *silence) broken(nc net.Conn) error {
	s.since = time.Now()
	if s.alarmed {
		if s.rest {
			s.rest = false
			s.alarm(nc, s.since.Add(quietTime))
		}
		return nil
	}
	if s.most > 0 {
		_ = nc.SetReadDeadline(s.since.Add(s.most))
	}
	if now := s.since.UnixMilli(); now < s.fresh || now-s.fresh >= freshTime.Milliseconds() {
		s.fresh = now
		return errQuiet
	}
	return nil
}

// alarm sets the deadline to a time, but not beyond the keep alive.
func (s *silence) alarm(nc net.Conn, at time.Time) {
	if s.most > 0 {
		if end := s.since.Add(s.most); at.IsZero() || end.Before(at) {
			at = end
		}
	}
	_ = nc.SetReadDeadline(at)
}

// after tells what an error of reading means: nil, to read on; errQuiet; or the end.
func (s *silence) after(nc net.Conn, err error) error {
	if !s.alarmed || !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	now := time.Now()
	switch silent := now.Sub(s.since); {
	case s.most > 0 && silent >= s.most:
		return err
	case silent < quietTime/2:
		s.alarm(nc, now.Add(busyTime))
		return nil
	}
	s.rest = true
	s.alarm(nc, time.Time{})
	return errQuiet
}
