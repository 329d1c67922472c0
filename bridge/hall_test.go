package bridge

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gateway/broker/packet"
)

// moody is a session whose broker refuses messages for a while.
type moody struct {
	verdict
	mu     sync.Mutex
	refuse bool
	took   []string
	tries  int
}

func (m *moody) Publish(p packet.Publish, done func(packet.ReasonCode)) {
	m.mu.Lock()
	code := packet.Success
	if m.tries++; m.refuse {
		code = packet.QuotaExceeded
	} else {
		m.took = append(m.took, p.Topic)
	}
	m.mu.Unlock()
	if done != nil {
		done(code)
	}
}

func (m *moody) mood(refuse bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuse = refuse
}

// After a refusal messages wait, in order and unacknowledged, until they are taken; the connection goes on, and
// so do acknowledgements of what goes up. When nothing was refused for a while they are handed on at once again.
func TestHall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &moody{refuse: true}
		h, r := handoverTo(t, s)
		var ushering sync.WaitGroup
		ushering.Go(h.usher)
		defer ushering.Wait()
		defer h.life.end(errClosed)
		h.caution.refused() // on the connection before
		say := func(n int, q packet.QoS) {
			t.Helper()
			if err := h.publish(packet.Publish{Topic: fmt.Sprint("down/", n), QoS: q, ID: uint16(n)}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		say(1, 1)
		say(2, 2)
		say(3, 1)
		time.Sleep(5 * retryPause)
		synctest.Wait()
		if len(r.answers) > 0 || h.life.cause() != nil || h.caution.held.Load() != 3 {
			t.Fatalf("answers %v, cause %v, %d held", r.answers, h.life.cause(), h.caution.held.Load())
		}
		if s.tries < 5 || s.tries > 7 {
			t.Errorf("%d attempts in five pauses", s.tries)
		}
		if err := h.acknowledged(packet.Ack{Type: packet.PUBACK, ID: 9}); err != nil { // of nothing: it is looked at
			t.Error(err)
		}
		s.mood(false)
		time.Sleep(retryPause)
		say(4, 1)
		var answers []string
		for _, a := range r.answers {
			answers = append(answers, fmt.Sprint(a.Type, a.ID))
		}
		if want := []string{"PUBACK 1", "PUBREC 2", "PUBACK 3", "PUBACK 4"}; !slices.Equal(answers, want) || h.caution.held.Load() != 0 {
			t.Errorf("answers %q, %d held", answers, h.caution.held.Load())
		}
		time.Sleep(calm)
		say(5, 1)
		if order := fmt.Sprint(s.took); order != "[local/down/1 local/down/2 local/down/3 local/down/4 local/down/5]" {
			t.Errorf("taken %s", order)
		}
		s.mood(true)
		say(6, 1) // at once: what came behind it may have been taken, so the connection ends
		if h.life.cause() == nil || !h.caution.wanted() {
			t.Errorf("cause %v, caution %t", h.life.cause(), h.caution.wanted())
		}
	})
}

// A URL is a good one when something was acknowledged there: a server that lets in and then does nothing is no
// reason not to try the next.
func TestNextTarget(t *testing.T) {
	ts := targets{all: make([]target, 2)}
	bad := fmt.Errorf("silent")
	for i, step := range []struct {
		t   try
		now bool
		at  int
	}{
		{try{used: true, good: true, err: bad}, false, 0},
		{try{used: true, err: bad}, true, 1},
		{try{used: true, good: true, err: bad}, false, 1},
		{try{err: bad}, false, 0},
		{try{err: errReturn}, true, 0},
	} {
		if now := ts.next(step.t); now != step.now || ts.at != step.at {
			t.Errorf("%d: at %d, now %t; want %d, %t", i, ts.at, now, step.at, step.now)
		}
	}
}
