package service_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gateway/broker/auth/service"
)

// asService makes this test binary the HTTP service, in a process of its own.
const asService = "GATEWAY_TEST_HTTP_SERVICE"

func TestMain(m *testing.M) {
	if os.Getenv(asService) != "" {
		serve()
		return
	}
	goleak.VerifyTestMain(m)
}

// serve behaves as the path of a request says, until standard input ends.
func serve() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/check", func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("password") != "right" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.PathValue("code"))
		w.WriteHeader(code)
	})
	mux.HandleFunc("/say", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.FormValue("body"), "{") {
			w.Header().Set("Content-Type", "application/json")
		}
		fmt.Fprint(w, r.FormValue("body"))
	})
	mux.HandleFunc("/json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, "<html>")
	})
	mux.HandleFunc("/redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/status/200", http.StatusFound) })
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/huge", func(w http.ResponseWriter, _ *http.Request) {
		for range 1 << 14 {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/headers", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) })
	mux.HandleFunc("/half", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		fmt.Fprint(w, "half")
	})
	mux.HandleFunc("/junk", func(w http.ResponseWriter, _ *http.Request) {
		nc, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		fmt.Fprint(nc, "\x10\x20\x30 nothing that is HTTP\r\n\r\n")
		_ = nc.Close()
	})
	fmt.Println(ln.Addr())
	go func() { _ = http.Serve(ln, mux) }()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// A process is an HTTP service in another process.
type process struct {
	url  string
	stop func()
}

func startService(t *testing.T) process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asService+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var stopped bool
	p := process{stop: func() {
		if stopped {
			return
		}
		stopped = true
		_ = in.Close()
		_ = cmd.Wait()
	}}
	t.Cleanup(p.stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	p.url = "http://" + strings.TrimSpace(line)
	return p
}

var discard = slog.New(slog.DiscardHandler)

// request is NanoMQ's own example, with another URL.
func request(url string) service.Request {
	return service.Request{
		URL: url, Method: "POST",
		Headers: map[string]string{"content-type": "application/x-www-form-urlencoded"},
		Params:  map[string]string{"clientid": "%c", "username": "%u", "password": "%P"},
	}
}

func start(t *testing.T, o service.Options) *service.Service {
	t.Helper()
	if o.Log == nil {
		o.Log = discard
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second // a busy machine is no slow service
	}
	s, err := service.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
