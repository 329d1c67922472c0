package bridge

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"gateway/broker/packet"
)

// Of the same messages in 3.1.1 every n-th is stopped, in both directions: on the way up it is put
// aside, on the way down dropped. What had waited for the connection is not counted.
func TestCirclesEnd(t *testing.T) {
	const limit = 5
	l := newLedger(t, 0)
	c := newCloud(t, l)
	same := packet.Publish{Topic: "up/a", QoS: 1, Payload: []byte("1"), From: "another bridge"}
	for range 10 * limit {
		l.add(same)
	}
	config := testConfig(t, l, c.url())
	config.CircleLimit = limit
	b, _ := start(t, config)
	l.empty(t)
	if n := len(firsts(c.arrived("site/up/a"))); n != 1 || b.State().Circling != 0 {
		t.Errorf("%d different messages of the backlog arrived, state %+v", n, b.State())
	}
	own := same
	own.From = "sensor"
	l.add(own)
	l.empty(t)
	before := len(c.arrived("site/up/a"))
	for i := range 2 * limit {
		l.add(same, message("up/a", 1, 1000+i))
		c.queue("down/a", 1, 7)
		c.queue("down/a", 1, 1000+i)
	}
	l.empty(t)
	eventually(t, "the cloud's messages are acknowledged", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, d := range c.down {
			if !d.done {
				return false
			}
		}
		return true
	})
	if n := len(c.arrived("site/up/a")) - before; n != 4*limit-2 {
		t.Errorf("%d messages went up, want all but 2 of %d", n, 4*limit)
	}
	if n := len(l.published("local/down/a")); n != 4*limit-2 {
		t.Errorf("%d messages came down, want all but 2 of %d", n, 4*limit)
	}
	if s := b.State(); s.Circling != 4 || s.Dead != 2 || s.Dropped != 2 {
		t.Errorf("state %+v", s)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	letters := 0
	for _, p := range l.inbox {
		if letter, ok := OpenLetter("cloud", p); ok && letter.Publish.Topic == "up/a" && strings.Contains(letter.Reason, "again and again") {
			letters++
		}
	}
	if letters != 2 {
		t.Errorf("%d dead letters", letters)
	}
}

// In 5.0 the hops end a circle, and the same message may be sent as often as one likes.
func TestSameMessageIn5(t *testing.T) {
	l := newLedger(t, 0)
	c, config := five(t, l, dialect{})
	config.CircleLimit = 1
	b, _ := start(t, config)
	eventually(t, "a connection", func() bool { return b.State().State == Connected })
	for range 10 {
		l.add(packet.Publish{Topic: "up/a", QoS: 1, Payload: []byte("1")})
	}
	l.empty(t)
	if n := len(c.arrived("site/up/a")); n != 10 {
		t.Errorf("%d of 10 messages arrived", n)
	}
}

func TestEchoes(t *testing.T) {
	now, stopped := time.Unix(1_800_000_000, 0), 0
	e := newEchoes(circleLimit, now)
	from := "sensor"
	see := func(topic, payload string, n int, pause time.Duration) {
		for range n {
			if e.circles(Out, from, topic, []byte(payload), now) {
				stopped++
			}
			now = now.Add(pause)
		}
	}
	see("a", "1", 10*circleLimit, time.Second) // a sensor that says the same each second
	for i := range 5000 {
		see("a", strconv.Itoa(i), 1, 0) // many that differ
	}
	see("a", "2", 20*circleLimit, 50*time.Millisecond) // and one that says it 20 times a second
	from = ""
	see("a", "2", 1, 0) // nobody knows any more who said it
	from = "sensor"
	see("b", "", 1, 0)
	from = "bridge"
	for range circleLimit - 1 {
		e.circles(In, "", "b", nil, now)
		see("b", "", 1, 0) // in both directions
	}
	if stopped != 0 {
		t.Errorf("%d messages were stopped without a circle", stopped)
	}
	from = "sensor"
	see("a", "1", 1, 0)
	from = "bridge"
	see("a", "1", 3*circleLimit, time.Millisecond)
	if stopped != 3 {
		t.Errorf("%d messages were stopped, want every %dth of %d", stopped, circleLimit, 3*circleLimit)
	}
	if see("a", "1", 10*circleFlood*circleLimit, 0); stopped < 9*circleFlood*circleLimit {
		t.Errorf("%d messages of a flood were stopped", stopped)
	}
	now, stopped = now.Add(circlePeriod), 0
	if see("a", "1", circleLimit-1, 0); stopped != 0 {
		t.Error("messages are stopped after the flood")
	}
	// Who published first is forgotten: a circle ends when it is a flood.
	now = now.Add(circlePeriod)
	if see("a", "1", 12*circleLimit, time.Millisecond); stopped != 3 {
		t.Errorf("%d messages of one publisher were stopped, want 3", stopped)
	}
	if none := newEchoes(-1, now); none.circles(In, "", "a", nil, now) {
		t.Error("a message was stopped though there is no limit")
	}
}

// More messages in a circle than there is memory for come to their end all the same, some after the
// others.
func TestManyEchoes(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	e := newEchoes(circleLimit, now)
	circle := map[string]bool{}
	for i := range 3 * len(e.rows) * len(e.rows[0]) {
		circle[fmt.Sprint(i)] = true
	}
	for turn := 0; len(circle) > 0; turn++ {
		if turn > 100*circleLimit {
			t.Fatalf("after %d turns %d messages still go round", turn, len(circle))
		}
		for payload := range circle {
			if e.circles(In, "", "a", []byte(payload), now) {
				delete(circle, payload)
			}
		}
		now = now.Add(circlePeriod / (2 * circleLimit))
	}
}
