package crash

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"gateway/broker/packet"
)

// A cloud is a broker that can end and come back with what it has acknowledged.
type cloud interface {
	start()
	die()
}

// die kills a gateway that is a cloud.
func (p *party) die() { p.kill() }

// clouds are those of TestMatrix.
var clouds = []struct {
	name string
	make func(t *testing.T) (c cloud, address string)
}{
	{"mosquitto", func(t *testing.T) (cloud, string) {
		m := newMosquitto(t)
		return m, m.address
	}},
	{"a gateway", func(t *testing.T) (cloud, string) {
		p := &party{t: t, binary: product(t), address: freeAddress(t), log: &output{}}
		p.write("    anonymous: true\n")
		return p, p.address
	}},
}

// longestCrossing is how many packets a connection carries at most in the rows where the line is cut:
// some end within their handshakes.
const longestCrossing = 80

// A row is one of the matrix.
type row struct {
	cloud, version, dies  string
	gateway, clouds, cuts int                // deaths
	arrived, commands     map[packet.QoS]int // messages that went up, and that came down
	lost                  int
	up, own               verdicts // of the gateway, and of the cloud
	done                  bool
}

// TestMatrix lets the gateway, the cloud and the line between them die, one of them or all in any
// order, with both versions of MQTT and with a mosquitto and a gateway as the cloud. Messages
// go up and down all the while. What both sides say is read on the line: the gateway sends and takes
// every message at QoS 2 once, and each in its turn. A mosquitto ends in order, because it loses
// what it has acknowledged when it is killed.
func TestMatrix(t *testing.T) {
	var rows []*row
	t.Cleanup(func() { t.Logf("deaths, messages by QoS, and what went wrong:\n%s", table(rows)) })
	for _, c := range clouds {
		for _, version := range versions {
			for _, dies := range []string{"gateway", "cloud", "line", "any"} {
				r := &row{cloud: c.name, version: version, dies: dies}
				rows = append(rows, r)
				t.Run(strings.Join([]string{c.name, version, dies}, " "), func(t *testing.T) {
					t.Parallel()
					upstream, address := c.make(t)
					r.run(t, product(t), upstream, address)
				})
			}
		}
	}
}

// table prints rows. In one that has not come to its end something is wrong, which the test tells.
func table(rows []*row) string {
	text := &strings.Builder{}
	w := tabwriter.NewWriter(text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "cloud\tversion\tdies\tgateway\tcloud\tline\tup 1\tup 2\tdown 1\tdown 2\tlost\tdoubled\tout of order\tdoubled by the cloud\tout of order by the cloud")
	deaths, cuts := 0, 0
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t", r.cloud, r.version, r.dies, r.gateway, r.clouds, r.cuts)
		if !r.done {
			fmt.Fprintln(w, "failed")
			continue
		}
		deaths, cuts = deaths+r.gateway+r.clouds, cuts+r.cuts
		fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", r.arrived[1], r.arrived[2], r.commands[1], r.commands[2],
			r.lost, r.up.doubled, r.up.disordered, r.own.doubled, r.own.disordered)
	}
	w.Flush()
	return text.String() + fmt.Sprintf("%d deaths of gateway and cloud, %d cuts of the line\n", deaths, cuts)
}

// run goes through the deaths of a row. It fails the test at what is wrong.
func (r *row) run(t *testing.T, binary string, upstream cloud, address string) {
	t.Helper()
	upstream.start()
	random := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	line := newWire(t, address, r.version, random)
	s := newSiteBelow(t, binary, nil, r.version, line.address(), address)
	fair := r.cloud != "mosquitto"
	s.book.strict, s.book.repeats, s.book.shuffles = fair, !fair, !fair
	s.trickle()
	s.begin()
	for r.dies != "line" && r.gateway+r.clouds < *kills {
		if s.random.IntN(2) == 0 { // else it may die while it starts
			s.progress()
		}
		s.live(longest)
		r.die(s, upstream, line)
	}
	if r.dies == "line" {
		line.often(longestCrossing)
		line.sever()
		for deadline := time.Now().Add(time.Minute + time.Duration(*cuts)*time.Second); line.count() < *cuts; {
			if time.Now().After(deadline) {
				t.Fatalf("the line was cut only %d times", line.count())
			}
			time.Sleep(10 * time.Millisecond) // a poll with a deadline
		}
		line.often(0)
		r.cuts = line.count()
	}
	s.progress()
	s.settle(time.Minute)
	var faults, more []string
	faults, r.up = line.said(s.book)
	more, r.own = line.heard(s.book)
	if faults = append(faults, more...); len(faults) > 0 {
		s.fail("on the line", faults)
	}
	r.count(s.book)
	r.done = true
	if fair && r.own != (verdicts{}) {
		t.Errorf("the cloud has sent %+v", r.own)
	}
}

// trickle lets so little be under way that a line which is cut all the time is cut at all places of an
// exchange, and not while the same messages begin again and again.
func (s *site) trickle() {
	s.t.Helper()
	s.extend("    keep_alive: 5s\n", "    window: 8\n")
	for _, d := range s.devices {
		d.pause = 20 * time.Millisecond
	}
}

// progress waits until messages have gone up and come down.
func (s *site) progress() {
	s.t.Helper()
	const some = 5
	up, down := s.book.moved()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) { // a poll with a deadline
		if u, d := s.book.moved(); u >= up+some && d >= down+some {
			return
		}
		if time.Now().After(deadline) {
			s.fail("within a minute", []string{"nothing goes up or comes down"})
		}
	}
}

// moved returns how many messages have gone up and come down.
func (l *ledger) moved() (up, down int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.accounts {
		if a.ours {
			up += len(a.places[atCloud].line)
		} else {
			down += len(a.places[atLocal].line)
		}
	}
	return up, down
}

// live lets a random time pass: the instant of a death is what is tested.
func (s *site) live(most time.Duration) { time.Sleep(time.Duration(s.random.Int64N(int64(most)))) }

// die lets one of the three die, or all of them one soon after the other, and brings them back.
func (r *row) die(s *site, upstream cloud, line *wire) {
	const soon = 100 * time.Millisecond
	deaths := map[string]func(){
		"gateway": func() { s.kill(); r.gateway++ },
		"cloud":   func() { upstream.die(); r.clouds++ },
		"line":    func() { r.cuts += line.sever() },
	}
	returns := map[string]func(){"gateway": func() { s.start() }, "cloud": upstream.start, "line": func() {}}
	who := []string{r.dies}
	if r.dies == "any" {
		who = []string{"gateway", "cloud", "line"}
	}
	for _, i := range s.random.Perm(len(who)) {
		deaths[who[i]]()
		s.live(soon)
	}
	for _, i := range s.random.Perm(len(who)) {
		returns[who[i]]()
		s.live(soon)
	}
}

// count adds up what arrived, once each.
func (r *row) count(book *ledger) {
	r.arrived, r.commands = map[packet.QoS]int{}, map[packet.QoS]int{}
	book.mu.Lock()
	defer book.mu.Unlock()
	for _, a := range book.accounts {
		into, at := r.commands, a.places[atLocal]
		if a.ours {
			into, at = r.arrived, a.places[atCloud]
		}
		for i, n := range at.count {
			into[a.qos] += min(n, 1)
			if n == 0 && a.acked[i] {
				r.lost++
			}
		}
	}
}

// TestMatrixHarness shows that TestMatrix can fail: bridges with one promise broken are noticed on a line
// that is cut.
func TestMatrixHarness(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit edit
	}{
		{"PUBREL before PUBREC is kept", edit{
			"bridge/handover.go",
			"d.lane.session.Accepted(d.p.ID, func(err error) { h.accepted(d, err) })",
			"h.accepted(d, nil)",
		}},
		{"repetitions are not marked", edit{"bridge/lane.go", "Dup: p.Dup && d.qos > 0,", "Dup: false,"}},
		{"identifiers begin anew", edit{"bridge/lane.go", "+ (id-1)%laneIDs + 1", "+ (id-1+uint16(time.Now().UnixNano()>>24))%laneIDs + 1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			upstream, address := clouds[1].make(t)
			upstream.start()
			line := newWire(t, address, "5.0", rand.New(rand.NewPCG(1, 2)))
			s := newSiteBelow(t, mutant(t, "mutant", tt.edit), nil, "5.0", line.address(), address)
			s.trickle()
			line.often(longestCrossing)
			s.begin()
			for line.count() < later {
				if faults, _ := line.said(s.book); len(faults) > 0 {
					t.Logf("noticed after %d cuts: %.200s", line.count(), faults[0])
					return
				}
				time.Sleep(10 * time.Millisecond) // a poll: later cuts take some seconds
			}
			t.Errorf("not noticed in %d cuts", later)
		})
	}
}
