package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"gateway/internal/client"
)

// A broker is one of the programs that are compared.
type broker struct {
	name string
	path string
	// config is the text of a configuration for an address, with its data in a folder.
	config func(address, folder string) string
	args   func(config string) []string
}

func newGateway(path string) broker {
	return broker{
		name: "gateway", path: path,
		args: func(config string) []string { return []string{"run", config} },
		config: func(address, folder string) string {
			return fmt.Sprintf(`gateway: {id: bench, data: %s, log: warn}
store: {max_size: 1GB}
limits: {queue: 10000000, inflight: 1000}
listeners:
  - {name: bench, address: %q, anonymous: true}
`, folder, address)
		},
	}
}

func newMosquitto() (broker, error) {
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		path = "/usr/sbin/mosquitto" // Debian's place, not in every user's PATH
	}
	help, _ := exec.Command(path, "-h").Output() // its exit code is that of a mistake
	version, _, found := strings.Cut(strings.TrimPrefix(string(help), "mosquitto version "), "\n")
	if !found {
		return broker{}, fmt.Errorf("%s does not start: apt-get install mosquitto", path)
	}
	return broker{
		name: "mosquitto " + version, path: path,
		args: func(config string) []string { return []string{"-c", config} },
		config: func(address, folder string) string {
			host, port, _ := net.SplitHostPort(address)
			return fmt.Sprintf(`user root
listener %s %s
allow_anonymous true
persistence true
persistence_location %s/
max_queued_messages 0
max_inflight_messages 1000
log_type error
`, port, host, folder)
		},
	}, nil
}

// A process is a broker that runs.
type process struct {
	cmd     *exec.Cmd
	address string
	started time.Duration // until the first CONNACK
}

// start runs the broker with an empty store and waits for its first CONNACK.
func (b broker) start(ctx context.Context, dir string) (*process, error) {
	folder, err := os.MkdirTemp(dir, "data-")
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(folder, "bench.conf")
	if err := os.WriteFile(config, []byte(b.config(address, folder)), 0o600); err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(b.path, b.args(config)...), address: "mqtt://" + address}
	var log strings.Builder
	p.cmd.Stdout, p.cmd.Stderr = &log, &log
	began := time.Now()
	if err := startOnBrokerCore(p.cmd); err != nil {
		return nil, fmt.Errorf("%s: %w", b.name, err)
	}
	for {
		c, err := client.Dial(ctx, p.address, client.Options{ClientID: "first"})
		if err == nil {
			p.started = time.Since(began)
			c.Close()
			return p, nil
		}
		if ctx.Err() != nil || time.Since(began) > 10*time.Second {
			p.stop()
			return nil, fmt.Errorf("%s does not answer: %w\n%s", b.name, errors.Join(err, ctx.Err()), &log)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// stop ends the process; what it has stored is of no interest.
func (p *process) stop() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // killed
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
