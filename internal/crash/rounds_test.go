package crash

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// longest is how long a gateway lives in one round at most, from its start.
const longest = 400 * time.Millisecond

// versions are those of MQTT that a bridge can speak.
var versions = []string{"3.1.1", "5.0"}

// TestKill kills the gateway at random instants, under load, while it starts as well: what it has
// acknowledged it keeps, QoS 2 is exactly once, and order is kept.
func TestKill(t *testing.T) {
	for i, version := range versions {
		t.Run(version, func(t *testing.T) {
			s := newSite(t, product(t), nil, version)
			if s.random.IntN(2) == 0 {
				s.delay()
			}
			s.survive((*rounds+i)/2, func() string { s.kill(); return "killed" })
		})
	}
}

// TestPowerCut is TestKill with the power of the disk: what was not synced is lost, kept, or torn
// to sectors in any order.
func TestPowerCut(t *testing.T) {
	needDisk(t)
	for i, version := range versions {
		t.Run(version, func(t *testing.T) {
			s := newSite(t, product(t), newDisk(), version)
			if s.random.IntN(2) == 0 {
				s.delay()
			}
			s.survive((*rounds+i)/2, func() string {
				f := fate(s.random.IntN(int(fates)))
				s.cut(f)
				return fmt.Sprintf("cut, %v,", f)
			})
		})
	}
}

// oftenCompacted makes a gateway that compacts its store every now and then, however large it is,
// and in the middle of everything.
var oftenCompacted = []edit{
	{
		"offline/compact.go",
		"size >= c.compactAt && c.used <= min(size/4, compactMost) &&",
		"size >= 0 && time.Now().UnixNano()%8 == 0 &&",
	},
	{
		"offline/commit.go",
		"\t\tcase pause == 0:\n",
		"\t\tcase c.compactDue():\n\t\t\tc.compact()\n\t\tcase pause == 0:\n",
	},
}

// oftenHoles makes a gateway that gives every free page of its store back to the file system, all the
// time.
var oftenHoles = []edit{
	{"offline/holes.go", "case p.next == 0 && spare < max(p.worth, c.used):", "case spare > 1<<40:"},
	{"offline/holes.go", "holesPause = time.Hour", "holesPause = 20 * time.Millisecond"},
	{"offline/holes.go", "holesRetry = time.Second / 10 ", "holesRetry = time.Millisecond "},
	{"offline/holes.go", "holeRun   = 16 ", "holeRun   = 1 "},
	{
		"offline/commit.go",
		"\t\tcase pause == 0:\n",
		"\t\tcase holes == 0:\n\t\t\tc.puncher.punch(c)\n\t\tcase pause == 0:\n",
	},
}

// TestHoles is TestPowerCut of a gateway that makes holes in its store all the time.
func TestHoles(t *testing.T) {
	needDisk(t)
	s := newSite(t, mutant(t, "holes", oftenHoles...), newDisk(), "3.1.1")
	s.survive(*rounds/2, func() string {
		f := fate(s.random.IntN(int(fates)))
		s.cut(f)
		return fmt.Sprintf("cut, %v,", f)
	})
	if n := s.log.count("was given back to the file system"); n < 5 { // in what is left of the log
		t.Errorf("room was given back only %d times", n)
	}
}

// TestCompaction is TestPowerCut of a gateway that compacts its store all the time.
func TestCompaction(t *testing.T) {
	needDisk(t)
	s := newSite(t, mutant(t, "compacting", oftenCompacted...), newDisk(), "5.0")
	s.survive(*rounds/2, func() string {
		f := fate(s.random.IntN(int(fates)))
		s.cut(f)
		return fmt.Sprintf("cut, %v,", f)
	})
	if n := s.log.count("the store was compacted"); n < 5 { // in what is left of the log
		t.Errorf("the store was compacted only %d times", n)
	}
}

// survive goes through rounds in which the gateway dies, and fails the test at the first promise
// that is not kept.
func (s *site) survive(rounds int, die func() string) {
	s.t.Helper()
	begin := time.Now()
	s.begin()
	for i := range rounds {
		how, faults := s.round(die)
		if len(faults) > 0 {
			s.fail(fmt.Sprintf("round %d, %s", i, how), faults)
		}
	}
	in := s.settle(30 * time.Second)
	sum := s.book.sum()
	s.t.Logf("%d rounds in %v: %v; lost 0, doubled at QoS 2 0, out of order 0; of %d hoarded %d dropped, each reported",
		rounds, time.Since(begin).Round(time.Second), sum, in.next-1, in.dropped)
	if sum.acked < 20*rounds {
		s.t.Errorf("only %d messages were acknowledged in %d rounds: the test shows nothing", sum.acked, rounds)
	}
}

// settle ends the load and waits until all is where it belongs; the test fails if it does not come to
// that. In = delivered + still queued + dropped and reported: everything was delivered, so nothing is
// queued; but in the hoard, everything is queued or dropped.
func (s *site) settle(limit time.Duration) (in stock) {
	s.t.Helper()
	if faults := s.finish(limit); len(faults) > 0 {
		s.fail("at the end", faults)
	}
	if faults := s.interrupt(); len(faults) > 0 {
		s.fail("at the end", faults)
	}
	in, faults := s.left()
	waiting := 0
	for p, topics := range in.queues {
		for _, numbers := range topics {
			if p != atHoard {
				waiting += len(numbers)
			}
		}
	}
	if len(faults) > 0 || waiting > 0 {
		s.fail(fmt.Sprintf("%d messages still wait at the end", waiting), faults)
	}
	return in
}

// begin starts the gateway and its peers.
func (s *site) begin() {
	s.t.Helper()
	s.start()
	s.subscribe(s.t)
	s.peers.start(s.t)
	s.t.Cleanup(s.peers.stop)
}

// round lets the gateway live for a while, lets it die, and looks at what it has left. The
// gateway of the next round is started.
func (s *site) round(die func() string) (how string, faults []string) {
	life := time.Duration(s.random.Int64N(int64(longest)))
	select {
	case <-time.After(life): // the random instant is what is tested
	case <-s.exited:
		return "at its start", []string{fmt.Sprintf("the gateway ended by itself: %v", s.cmd.ProcessState)}
	}
	how = fmt.Sprintf("%s after %v", die(), life.Round(time.Millisecond))
	if faults = s.inspect(); len(faults) == 0 {
		s.start()
	}
	return how, faults
}

// left returns what is in the store of a gateway that has ended.
func (s *site) left() (stock, []string) {
	folder := s.t.TempDir()
	if err := s.copyFolder(folder); err != nil {
		return stock{}, []string{err.Error()}
	}
	in, faults := readStore(filepath.Join(folder, "store.db"))
	return in, append(faults, s.book.hoarded(in.queues[atHoard], in.dropped)...)
}

// fail ends the test and prints some of what is wrong.
func (s *site) fail(when string, faults []string) {
	s.t.Helper()
	for _, f := range faults[:min(len(faults), 10)] {
		s.t.Error(f)
	}
	s.t.Fatalf("%s: %d faults; the books: %v", when, len(faults), s.book.sum())
}
