package hostile

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gateway/broker"
)

// How a process of this test is told what it is, besides the main one.
const (
	roleOf   = "HOSTILE_ROLE"   // broker, good or foes
	attackOf = "HOSTILE_ATTACK" // the name of the attack
	siteOf   = "HOSTILE_SITE"   // for foes: the broker's address and the URL of its books
)

// How long a phase of the measurement lasts, and between which times good clients send a message.
const (
	phase  = 3 * time.Second
	period = 2 * time.Millisecond
)

// busyDisk is no attack either: the broker waits for a disk that takes 10 ms for each flush.
const busyDisk = "a disk that is always busy"

// noAttack are foes that are busy with themselves: what it shows is not the broker's doing.
const noAttack = "the floor: foes without a broker"

// What good clients notice. Always: the busiest attacks get a few turns at most, half of the times one or two,
// while a good client's message is on its way, however fast the machine is.
//
// With -measure: the latency of QoS 1 messages that 99 of 100 are below, quiet and under attack, through
// memory and through the disk.
//
// Broker, good clients and foes are processes. The broker has one core, the clients another. Foes
// are elsewhere in the world and take nothing from the good clients: they run when these have nothing to
// do (SCHED_IDLE). The first line shows what is left of their influence. An attack is
// repeated, against the same broker, until the phase is over.
func TestNeighbours(t *testing.T) {
	for _, tt := range attacks {
		if busiest[tt.name] {
			t.Run("turns beside "+tt.name, func(t *testing.T) { countTurns(t, tt.limits, tt.run) })
		}
	}
	if !*measure {
		return
	}
	if runtime.NumCPU() < 2 {
		t.Skip("broker and clients need a core each")
	}
	fmt.Printf("%-42s %28s   %28s\n", "p99 in ms: quiet, attacked, ratio", "in memory", "durable")
	names := []string{noAttack, busyDisk}
	for _, tt := range attacks {
		names = append(names, tt.name)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) { begin(t, "good", name, "").end() })
	}
}

// busiest are the attacks by foes who leave the broker no time.
var busiest = map[string]bool{
	"pings without reading": true, "wildcards that match in every way": true,
	"subscription bombs at any rate": true, "endless retained topics": true,
}

// countTurns asserts how many turns the broker's busy clients have while a message is on its way.
func countTurns(t *testing.T, set func(*broker.Limits), run func(*attack)) {
	limits := small
	if set != nil {
		set(&limits)
	}
	s := start(t, limits, "")
	c := s.couple(1, 0)
	a := &attack{site: s, light: true}
	t.Cleanup(a.leave)
	const enough = 100 // messages, of which one in ten may be late
	deadline := time.Now().Add(patience)
	took := during([]*couple{c}, func() {
		before := c.arrived()
		run(a)
		again(t, s, run, func() bool { return c.arrived()-before >= enough || time.Now().After(deadline) })
	})[0]
	a.leave()
	c.leave()
	if len(took) < enough {
		t.Fatalf("%d messages have come in %v, want %d", len(took), patience, enough)
	}
	turns := make([]int64, len(took))
	for i := range took {
		turns[i] = took[i].turns
	}
	slices.Sort(turns)
	const half, most = 2, 10 // turns for half of the messages, and for nine of ten
	at := func(percent int) int64 { return turns[len(turns)*percent/100] }
	t.Logf("%d messages, %d turns for half of them, %d for nine of ten, %d at most", len(turns), at(50), at(90), turns[len(turns)-1])
	if s.counter("Turns") == 0 {
		t.Error("nobody was busy")
	}
	if at(50) > half || at(90) > most {
		t.Errorf("%d turns for half of the messages, %d for nine of ten; want %d and %d at most", at(50), at(90), half, most)
	}
}

// neighbours measures one attack.
func neighbours(t *testing.T, name string) {
	server := begin(t, "broker", name, "")
	place, _ := server.out.ReadString('\n')
	address, _, _ := strings.Cut(strings.TrimSpace(place), " ")
	s := &site{t: t, address: address, period: period}
	couples := []*couple{s.couple(1, 0), s.couple(1, 60)}
	calm := during(couples, func() { time.Sleep(phase / 2) })
	attacked := during(couples, func() { begin(t, "foes", name, strings.TrimSpace(place)).end() })
	for i, d := range during(couples, func() { time.Sleep(phase / 2) }) {
		calm[i] = append(calm[i], d...)
	}
	for _, c := range couples {
		c.leave()
	}
	server.end()
	line := fmt.Sprintf("%-42s", name)
	for i := range couples {
		quiet, busy := p99(calm[i]), p99(attacked[i])
		line += fmt.Sprintf(" %9.2f %9.2f %7.1fx  ", 1e3*quiet.Seconds(), 1e3*busy.Seconds(), busy.Seconds()/quiet.Seconds())
	}
	fmt.Fprintln(os.Stderr, line)
}

// A process is a part of the measurement. It ends when its input does, or by itself.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.Closer
	out *bufio.Reader
}

// begin starts this program again, in another role.
func begin(t *testing.T, role, attack, site string) *process {
	t.Helper()
	args := []string{os.Args[0], "-test.run=^TestProcess$", "-test.timeout=2m"}
	args = append(map[string][]string{
		"broker": {"taskset", "-c", "0"}, "good": {"taskset", "-c", "1"}, "foes": {"taskset", "-c", "1", "chrt", "-i", "0"},
	}[role], args...)
	p := &process{t: t, cmd: exec.Command(args[0], args[1:]...)}
	p.cmd.Env = append(os.Environ(), roleOf+"="+role, attackOf+"="+attack, siteOf+"="+site)
	p.cmd.Stderr = os.Stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in, p.out = in, bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *process) end() {
	p.t.Helper()
	_ = p.in.Close()
	rest, _ := io.ReadAll(p.out)
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("%v: %s", err, rest)
	}
}

// TestProcess is the other processes of TestNeighbours.
func TestProcess(t *testing.T) {
	role, name := os.Getenv(roleOf), os.Getenv(attackOf)
	if role == "" {
		t.Skip("it is a part of TestNeighbours")
	}
	limits, run := small, quarrel
	if name == busyDisk {
		run = func(a *attack) { a.counter("") }
	}
	for _, tt := range attacks {
		if tt.name != name {
			continue
		}
		run = tt.run
		if tt.limits != nil {
			tt.limits(&limits)
		}
	}
	switch role {
	case "good":
		neighbours(t, name)
	case "broker":
		s := start(t, limits, "")
		ledger := httptest.NewServer(s)
		defer ledger.Close()
		fmt.Println(s.address, ledger.URL)
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "foes":
		address, ledger, _ := strings.Cut(os.Getenv(siteOf), " ")
		end := time.Now().Add(phase)
		again(t, &site{limits: limits, address: address, books: remote{t, ledger}}, run, func() bool { return time.Now().After(end) })
	}
}

// again makes an attack again and again, until that is enough.
func again(t *testing.T, s *site, run func(*attack), enough func() bool) {
	for !enough() {
		a := &attack{site: &site{t: lenient{t}, limits: s.limits, address: s.address, books: s.books}, light: true}
		var round sync.WaitGroup
		round.Go(func() { run(a) })
		round.Wait()
		a.leave()
	}
}

// lenient is for foes that do again what has succeeded before: TestAttacks has asserted what they
// meet the first time, and it may be something else now.
type lenient struct{ testing.TB }

func (lenient) Error(...any)          {}
func (lenient) Errorf(string, ...any) {}
func (lenient) Fatal(...any)          { runtime.Goexit() }
func (lenient) Fatalf(string, ...any) { runtime.Goexit() }

// quarrel is what foes do for a phase who do not know the broker: ten of them shout at each other.
func quarrel(a *attack) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		a.t.Fatal(err)
	}
	defer ln.Close()
	var all sync.WaitGroup
	defer all.Wait()
	for range 10 {
		one, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			a.t.Fatal(err)
		}
		other, err := ln.Accept()
		if err != nil {
			a.t.Fatal(err)
		}
		time.AfterFunc(phase, func() { _, _ = one.Close(), other.Close() })
		all.Go(func() { _, _ = io.Copy(io.Discard, other) })
		all.Go(func() {
			for b := make([]byte, 4<<10); err == nil; {
				_, err = one.Write(b)
			}
		})
	}
}

// ServeHTTP lets another process look into the books.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch q := r.URL.Query(); {
	case q.Has("lines"):
		fmt.Fprint(w, s.lines(q.Get("lines")))
	case q.Get("counter") == "": // busyDisk: for the scheduler one call that lasts is like another
		for end := time.Now().Add(phase); time.Now().Before(end); {
			_ = syscall.Nanosleep(&syscall.Timespec{Nsec: 10e6}, nil)
		}
		fmt.Fprint(w, 0)
	default:
		fmt.Fprint(w, s.counter(q.Get("counter")))
	}
}

// remote are the books of a broker in another process.
type remote struct {
	t   *testing.T
	url string
}

func (r remote) lines(text string) int     { return int(r.ask("lines", text)) }
func (r remote) counter(name string) int64 { return r.ask("counter", name) }

func (r remote) ask(what, name string) int64 {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(r.url + "?" + url.Values{what: {name}}.Encode())
	if err != nil {
		r.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}
