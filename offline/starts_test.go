package offline

import (
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// A day is a Clock that is wrong by some time, or does not know.
type day struct {
	off    time.Duration
	known  bool
	raised time.Time
	resume time.Time
}

func (d *day) Date(at time.Time) (time.Time, bool) { return at.Add(d.off), d.known }
func (d *day) Raise(t time.Time)                   { d.raised = t }
func (d *day) Resume(_, t time.Time)               { d.resume = t }

// restartMachine makes a store believe that the machine starts again before it is opened next.
func restartMachine(t *testing.T, path string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: pageSize})
	must(t, err)
	must(t, db.Update(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketNames[bucketMeta])
		number, _ := parseBoot(meta.Get(keyBoot))
		return meta.Put(keyBoot, bootRecord(number, "a start before"))
	}))
	must(t, db.Close())
}

// A board wakes up in 1970, takes messages, learns the time or does not, and stops. How long they
// have waited is known at its next start if the time ever was.
func TestStarts(t *testing.T) {
	const decades = -50 * 365 * 24 * time.Hour
	for _, tt := range []struct {
		name    string
		learned bool
		waited  time.Duration
	}{
		{"the clock was set before the end", true, time.Hour},
		{"the clock was never set", false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := storePath(t)
			clock := &day{off: decades}
			s := open(t, path, Options{Clock: clock})
			a := &session.Opened{Client: "a", Expiry: 1, Version: packet.V5}
			must(t, commitNow(s, a, enqueue("early", to("a", 1))))
			clock.off, clock.known = 0, tt.learned
			if !tt.learned {
				clock.off = decades
			}
			must(t, commitNow(s, &session.Received{Client: "a", ID: 1}))
			must(t, s.Close())

			for range 3 { // other starts come between, without a word
				restartMachine(t, path)
				must(t, open(t, path, Options{Clock: &day{off: decades}}).Close())
			}
			restartMachine(t, path)
			later := &day{off: time.Hour, known: true}
			s = open(t, path, Options{Clock: later})
			found, err := s.Read("a", 0, 10)
			must(t, err)
			if len(found) != 1 {
				t.Fatalf("%d messages", len(found))
			}
			m := found[0].Message
			if off := (m.Waited - tt.waited).Abs(); off > time.Minute || m.Undated == tt.learned {
				t.Errorf("it has waited %v, undated %t; want %v, %t", m.Waited, m.Undated, tt.waited, !tt.learned)
			}
			if tt.learned && time.Since(later.raised).Abs() > time.Minute {
				t.Errorf("the floor is %v, not the newest time that was known", later.raised)
			}
			if !tt.learned && later.raised.Year() > 1980 {
				t.Errorf("the floor is %v, of a clock that was never set", later.raised)
			}
			must(t, s.Close())
		})
	}
}

// A power cut costs at most what was learned since the last commit: the note goes with any.
func TestStartsNoted(t *testing.T) {
	path := storePath(t)
	clock := &day{off: -50 * 365 * 24 * time.Hour}
	s := open(t, path, Options{Clock: clock})
	must(t, commitNow(s, &session.Opened{Client: "a", Expiry: 1, Version: packet.V5}))
	clock.off, clock.known = 0, true
	must(t, commitNow(s, &session.Received{Client: "a", ID: 1}))
	var starts map[uint64]start
	must(t, s.file.view(func(tx *bolt.Tx) error {
		_, starts = parseStarts(tx.Bucket(bucketNames[bucketMeta]).Get(keyStarts))
		return nil
	}))
	if !starts[s.clock.boot].known {
		t.Errorf("the file does not know when the machine started: %v", starts)
	}
	must(t, s.Close())
	next := &day{off: 10 * 365 * 24 * time.Hour, known: true}
	must(t, open(t, path, Options{Clock: next}).Close())
	if time.Since(next.resume).Abs() > time.Minute {
		t.Errorf("the next process hears that it is %v", next.resume)
	}
}

// The list of starts does not grow for ever.
func TestStartsBounded(t *testing.T) {
	many := make(map[uint64]start)
	for n := range uint64(3 * mostStarts) {
		many[n] = start{time.Unix(int64(n), 0), true}
	}
	_, kept := parseStarts(startsRecord(time.Now(), many))
	if _, newest := kept[3*mostStarts-1]; len(kept) != mostStarts || !newest {
		t.Errorf("%d starts are kept, the newest of them: %t", len(kept), newest)
	}
}
