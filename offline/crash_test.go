package offline

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// crashEnv makes the test binary the child of TestKill.
const crashEnv = "GATEWAY_TEST_STORE"

// crashChild submits from several goroutines for as long as it lives. It prints "p <payload>" for
// each message, and "a <payload>" for each that was taken out again, when the store says that they
// are on disk.
func crashChild(path string) {
	s, err := Open(path, Options{TelemetryCommit: 5 * time.Millisecond, sweepAt: 20, compact: 1 << 15})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	a := &session.Opened{Client: "a", Expiry: 1, Version: packet.V5}
	b := &session.Opened{Client: "b", Expiry: 1, Version: packet.V5}
	s.Submit([]session.Change{a, b}, true, nil)
	var mu sync.Mutex
	out := bufio.NewWriter(os.Stdout)
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(out, format+"\n", args...)
		out.Flush()
	}
	for p := range 4 {
		go func() {
			for i := 0; ; i++ {
				payload := fmt.Sprintf("%d-%d-%d", os.Getpid(), p, i)
				e := enqueue(payload, to("a", a.Incarnation), to("b", b.Incarnation))
				if i%2 == 0 {
					e.To = e.To[:1]
				}
				if err := commitNow(s, e, &session.Received{Client: "b", ID: uint16(1 + i%100)}); err != nil {
					say("error %v", err)
				}
				say("p %s", payload)
				if i%3 == 0 {
					if err := commitNow(s, &session.Advanced{Client: "a", Position: e.To[0].Position, Stage: session.Done}); err != nil {
						say("error %v", err)
					}
					say("a %s", payload)
				}
			}
		}()
	}
	select {}
}

// TestKill proves that done(nil) is said only of what a SIGKILL at any instant cannot take back.
func TestKill(t *testing.T) {
	path := storePath(t)
	put, taken := map[string]bool{}, map[string]bool{}
	for round := range 20 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+path)
		stdout, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		killed := time.AfterFunc(time.Duration(rand.IntN(150))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			what, payload, _ := strings.Cut(lines.Text(), " ")
			switch what {
			case "p":
				put[payload] = true
			case "a":
				taken[payload] = true
			default:
				t.Errorf("child: %s", lines.Text())
			}
		}
		_ = cmd.Wait()
		killed.Stop()
		if _, err := os.Stat(path); err != nil {
			continue // it did not come so far
		}
		checkClean(t, path)
		s := open(t, path, Options{})
		if saved := s.Stats().Salvaged; saved != nil {
			t.Fatalf("round %d: the store was damaged: %+v", round, saved)
		}
		a, b := queueSet(t, s, "a"), queueSet(t, s, "b")
		must(t, s.Close())
		for payload := range put {
			var odd int
			fmt.Sscanf(payload[strings.LastIndexByte(payload, '-')+1:], "%d", &odd)
			if odd%3 != 0 && !a[payload] || odd%2 == 1 && !b[payload] {
				t.Fatalf("round %d: acknowledged message %s is lost", round, payload)
			}
			if taken[payload] && a[payload] {
				t.Fatalf("round %d: message %s is back after its acknowledgement was durable", round, payload)
			}
		}
	}
	t.Logf("20 kills, %d messages acknowledged, %d of them acknowledged again, none lost", len(put), len(taken))
	if len(put) < 100 {
		t.Errorf("only %d messages: the test proves nothing", len(put))
	}
}

func queueSet(t *testing.T, s *Store, client string) map[string]bool {
	set := make(map[string]bool)
	for _, p := range payloads(t, s, client) {
		if set[p] {
			t.Errorf("message %s is in the queue of %s twice", p, client)
		}
		set[p] = true
	}
	return set
}
