package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

var returning = flag.Int("returning", 150, "clients of TestReturn; from a thousand on with passwords that cost what they cost by default")

// TestReturn cuts the power of a gateway to which many clients are connected. All come back at once, as soon
// as it runs, with certificates or with passwords that take long to hash, and nobody is turned away for that.
func TestReturn(t *testing.T) {
	for _, way := range []string{"certificate", "sha512-pbkdf2", "argon2id"} {
		t.Run(way, func(t *testing.T) {
			o := order{Clients: *returning, User: "dev", Password: "pencil"}
			auth := ""
			if way != "certificate" {
				passwords := filepath.Join(t.TempDir(), "passwords")
				args := []string{"passwd", "-H", way, "-b", passwords, o.User, o.Password}
				if way == "sha512-pbkdf2" && o.Clients < 1000 {
					args = append([]string{"passwd", "-I", "2000"}, args[1:]...)
				}
				try(t, binary, args...)
				auth = fmt.Sprintf("auth: {password_file: %s}\n", passwords)
			}
			if way == "argon2id" && o.Clients < 1000 {
				o.Clients = 20 // each takes as long as thousands of rounds
			}
			ca, address := newAuthority(t, "site"), freeAddress(t)
			server, device := ca.valid("gateway"), ca.valid("device")
			how := fmt.Sprintf("tls: {cert: %s, key: %s, client_ca: %s, require_certificate: true}", server.cert, server.key, ca.file)
			if o.URL = "mqtts://" + address; way == "certificate" {
				o.CA, o.Cert, o.Key = ca.file, device.cert, device.key
			} else {
				o.URL, how = "mqtt://"+address, "auth: passwords"
			}
			g := newGateway(t, fmt.Sprintf("  - {name: devices, address: %q, %s}\nlimits: {connections: %d}\n", address, how, o.Clients+10), auth)
			crowd := newCrowd(t, &o)
			for _, when := range []string{"at first", "after the power cut"} {
				g.start()
				began := time.Now()
				turned, gap := crowd.wait(t)
				took, pid := time.Since(began), g.cmd.Process.Pid
				t.Logf("%s, %d clients %s: all in after %v; %v of the processor; %d MiB at most; turned away: %v",
					way, o.Clients, when, took.Round(10*time.Millisecond), cpuTime(t, pid), peak(t, pid)>>20, turned)
				// The gateway waits for two seconds in which nobody gets in: then it is this machine that is slow.
				if len(turned) > 0 && gap < time.Second {
					t.Errorf("%s: clients were turned away: %v", when, turned)
				}
				g.kill()
			}
		})
	}
}

// asCrowd makes this test binary many clients, in a process of its own.
const asCrowd = "GATEWAY_E2E_CROWD"

// An order is what a crowd is to do.
type order struct {
	URL, User, Password string
	CA, Cert, Key       string // files; empty: without TLS
	Clients             int
}

// A crowd is many clients in a process of their own.
type crowd struct{ lines *bufio.Scanner }

func newCrowd(t *testing.T, o *order) *crowd {
	t.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), asCrowd+"="+string(b)), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	return &crowd{bufio.NewScanner(out)}
}

// wait waits until all are in, and returns how often one was turned away, by the reason, and the longest time
// in which nobody got in.
func (c *crowd) wait(t *testing.T) (turned map[string]int, gap time.Duration) {
	t.Helper()
	if !c.lines.Scan() {
		t.Fatalf("the crowd has ended: %v", c.lines.Err())
	}
	var r result
	if err := json.Unmarshal(c.lines.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	return r.Turned, r.Gap
}

// A result is what a crowd says when all are in.
type result struct {
	Turned map[string]int
	Gap    time.Duration
}

// A census counts who is in, and who was turned away.
type census struct {
	mu     sync.Mutex
	in     int
	latest time.Time // somebody got in
	result
}

func (c *census) enter(all int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in++; c.in > 1 {
		c.Gap = max(c.Gap, time.Since(c.latest))
	}
	if c.latest = time.Now(); c.in == all {
		_ = json.NewEncoder(os.Stdout).Encode(c.result) // without a reader nobody counts
		c.result = result{Turned: make(map[string]int)}
	}
}

func (c *census) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.in--
}

func (c *census) refuse(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	why := err.Error()
	if e, ok := errors.AsType[*client.Error](err); ok {
		why = e.Reason.String()
	} else if i := strings.LastIndex(why, ": "); i >= 0 {
		why = why[i+2:]
	}
	c.Turned[why]++
}

// gather is the process that newCrowd starts. Its clients try again for ever: ten times a second while there
// is no gateway, and soon after one has turned them away.
func gather(text string) int {
	var o order
	var config *tls.Config
	err := json.Unmarshal([]byte(text), &o)
	if err == nil && o.CA != "" {
		config, err = o.certificates()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	count := census{result: result{Turned: make(map[string]int)}}
	var clients sync.WaitGroup
	for i := range o.Clients {
		clients.Go(func() {
			for {
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
				c, err := client.Dial(ctx, o.URL, client.Options{ClientID: fmt.Sprint("client-", i), Version: packet.V5, Username: o.User, Password: o.Password,
					TLS: config, KeepSession: true, SessionExpiry: 3600})
				cancel()
				switch {
				case errors.Is(err, syscall.ECONNREFUSED):
					time.Sleep(100 * time.Millisecond)
				case err != nil:
					count.refuse(err)
					time.Sleep(300 * time.Millisecond)
				default:
					count.enter(o.Clients)
					<-c.Done()
					time.Sleep(100 * time.Millisecond) // no device is quicker to see that
					count.leave()
				}
			}
		})
	}
	clients.Wait()
	return 0
}

// certificates returns the settings of TLS for the files.
func (o *order) certificates() (*tls.Config, error) {
	pem, err := os.ReadFile(o.CA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	pair, err := tls.LoadX509KeyPair(o.Cert, o.Key)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}, err
}

// peak returns the most memory that a process has had, in bytes.
func peak(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	var kib int
	_, line, _ := strings.Cut(string(b), "VmHWM:")
	if _, err := fmt.Sscan(line, &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
