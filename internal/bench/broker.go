package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A site is what a broker is configured with.
type site struct {
	folder string            // for its data
	at     map[string]string // address by scheme; the secure ones ask clients for certificates
	certs  *certificates
}

// host is where the brokers listen.
const host = "127.0.0.1"

// schemes are those of the listeners of each broker.
var schemes = []string{"mqtt", "mqtts", "ws", "wss"}

// A broker is one of the programs that are compared.
type broker struct {
	name   string
	path   string
	config func(site) string // the text of a configuration
	args   func(config string) []string
}

// newGateway returns the gateway, which another program may start.
func newGateway(path, through string) broker {
	command := append(strings.Fields(through), path, "run")
	return broker{
		name: "gateway", path: command[0],
		args: func(config string) []string { return append(slices.Clip(command[1:]), config) },
		config: func(s site) string {
			tls := fmt.Sprintf("{cert: %q, key: %q, client_ca: %q, require_certificate: true}", s.certs.server.Cert, s.certs.server.Key, s.certs.authority.Cert)
			// No limit may be what is measured.
			return fmt.Sprintf(`gateway: {id: bench, data: %q, log: warn}
store: {max_size: 1GB}
limits:
  {queue: 10000000, queue_size: 64MiB, inflight: 1000, connections: 20000, address_connections: 20000,
   handshakes: 20000, connect_rate: 100000, request_rate: 1000000, client_connects: 100000, sessions: 100000, subscriptions_size: 256MiB, memory: 4GiB}
listeners:
  - {name: mqtt, address: %q, anonymous: true}
  - {name: ws, address: %q, anonymous: true, protocols: [websocket]}
  - {name: mqtts, address: %q, tls: %s}
  - {name: wss, address: %q, protocols: [websocket], tls: %s}
`, s.folder, s.at["mqtt"], s.at["ws"], s.at["mqtts"], tls, s.at["wss"], tls)
		},
	}
}

// mosquittoListeners returns the part of mosquitto's configuration that the listeners are.
func (s site) mosquittoListeners() string {
	var b strings.Builder
	for _, scheme := range schemes {
		_, port, _ := net.SplitHostPort(s.at[scheme])
		fmt.Fprintf(&b, "listener %s %s\n", port, host)
		if strings.HasPrefix(scheme, "ws") {
			b.WriteString("protocol websockets\n")
		}
		if strings.HasSuffix(scheme, "s") && scheme != "ws" {
			fmt.Fprintf(&b, "certfile %s\nkeyfile %s\ncafile %s\nrequire_certificate true\n", s.certs.server.Cert, s.certs.server.Key, s.certs.authority.Cert)
		}
	}
	return b.String()
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
		config: func(s site) string {
			return fmt.Sprintf(`user root
allow_anonymous true
persistence true
persistence_location %s/
max_queued_messages 0
max_inflight_messages 1000
log_type error
`, s.folder) + s.mosquittoListeners()
		},
	}, nil
}

// A process is a broker that runs.
type process struct {
	cmd     *exec.Cmd
	at      map[string]string // its addresses, by scheme
	started time.Duration     // until the first CONNACK
}

// start runs a broker with an empty store and waits for its first CONNACK, and for its listeners.
func (b *bench) start(ctx context.Context, br broker) (*process, error) {
	folder, err := os.MkdirTemp(b.dir, "data-")
	if err != nil {
		return nil, err
	}
	at := make(map[string]string)
	for _, scheme := range schemes {
		if at[scheme], err = freeAddress(); err != nil {
			return nil, err
		}
	}
	config := filepath.Join(folder, "bench.conf")
	if err := os.WriteFile(config, []byte(br.config(site{folder, at, &b.certs})), 0o600); err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(br.path, br.args(config)...), at: at}
	var log strings.Builder
	p.cmd.Stdout, p.cmd.Stderr = &log, &log
	began := time.Now()
	if err := startOnBrokerCore(p.cmd); err != nil {
		return nil, fmt.Errorf("%s: %w", br.name, err)
	}
	for {
		w, err := p.dial(ctx, transport{}, "first", readBuffer)
		if err == nil {
			p.started = time.Since(began)
			return p, errors.Join(w.nc.Close(), p.opened(ctx))
		}
		if ctx.Err() != nil || time.Since(began) > 10*time.Second {
			p.stop()
			return nil, fmt.Errorf("%s does not answer: %w\n%s", br.name, errors.Join(err, ctx.Err()), &log)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// opened waits until the other listeners are there, too.
func (p *process) opened(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drain)
	defer cancel()
	for _, address := range p.at {
		nc, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		for err != nil && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
			nc, err = new(net.Dialer).DialContext(ctx, "tcp", address)
		}
		if err != nil {
			return err
		}
		if err := nc.Close(); err != nil {
			return err
		}
	}
	return nil
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
