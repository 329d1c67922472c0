package hostile

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// How a process of this test is told what it is, besides the main one.
const (
	roleOf   = "HOSTILE_ROLE"   // broker or foes
	attackOf = "HOSTILE_ATTACK" // the name of the attack
	siteOf   = "HOSTILE_SITE"   // for foes: the broker's address and the URL of its books
)

// TestNeighbours prints, with -measure, what good clients notice: the latency of QoS 1 messages
// that 99 of 100 are below, quiet and under attack, through memory and through the disk. Foes are
// elsewhere in the world: they are a process of their own, which gets what the others leave of one
// core. The broker has another core.
func TestNeighbours(t *testing.T) {
	if !*measure {
		t.Skip("it prints and asserts nothing: run it with -v -measure")
	}
	fmt.Printf("%-42s %28s   %28s\n", "p99 in ms: quiet, attacked, ratio", "in memory", "durable")
	for _, tt := range attacks {
		t.Run(tt.name, func(t *testing.T) { neighbours(t, tt.name) })
	}
}

// neighbours measures one attack.
func neighbours(t *testing.T, name string) {
	server := begin(t, "broker", name, "")
	place, _ := server.out.ReadString('\n')
	address, _, _ := strings.Cut(strings.TrimSpace(place), " ")
	s := &site{t: t, address: address}
	couples := []*couple{s.couple(1, 0), s.couple(1, 60)}
	calm := during(couples, func() { time.Sleep(time.Second) })
	attacked := during(couples, func() { begin(t, "foes", name, strings.TrimSpace(place)).end() })
	for i, d := range during(couples, func() { time.Sleep(time.Second) }) {
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
	fmt.Println(line)
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
	if role == "foes" {
		args = append([]string{"taskset", "-c", strconv.Itoa(runtime.NumCPU() - 1), "nice", "-n", "19"}, args...)
	} else {
		args = append([]string{"taskset", "-c", "0"}, args...)
	}
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
	role := os.Getenv(roleOf)
	if role == "" {
		t.Skip("it is a part of TestNeighbours")
	}
	for _, tt := range attacks {
		if tt.name != os.Getenv(attackOf) {
			continue
		}
		limits := small
		if tt.limits != nil {
			tt.limits(&limits)
		}
		if role == "broker" {
			s := start(t, limits, "")
			ledger := httptest.NewServer(s)
			defer ledger.Close()
			fmt.Println(s.address, ledger.URL)
			_, _ = io.Copy(io.Discard, os.Stdin)
			return
		}
		address, ledger, _ := strings.Cut(os.Getenv(siteOf), " ")
		a := &attack{site: &site{t: t, limits: limits, address: address, books: remote{t, ledger}}, light: true}
		defer a.leave()
		tt.run(a)
	}
}

// ServeHTTP lets another process look into the books.
func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if q := r.URL.Query(); q.Has("lines") {
		fmt.Fprint(w, s.lines(q.Get("lines")))
	} else {
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
