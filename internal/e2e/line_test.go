package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// carried publishes on a gateway until the cloud's listener has got something of it.
func carried(t *testing.T, g *gateway, c *client.Client, got <-chan string) {
	t.Helper()
	if _, err := c.Publish(t.Context(), packet.Publish{Topic: "up/a", QoS: 1, Payload: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	if s := receive(t, got); s != "greenhouse/up/a 1" {
		t.Fatalf("%q arrived", s)
	}
}

// listenTo returns what the cloud passes on of the gateway.
func (c *cloud) listenTo() <-chan string {
	got := make(chan string, 100)
	subscribe(c.t, c.connect("listener", client.Options{Receive: func(m packet.Publish) { got <- m.Topic + " " + string(m.Payload) }}), "greenhouse/#", 1)
	return got
}

// TestProxies leads a bridge with mutual TLS to a mosquitto through proxies that others have made, and
// through the same with a wrong password.
func TestProxies(t *testing.T) {
	for _, tt := range []struct {
		scheme, program string
		args            func(folder, port, cloudPort string) []string
	}{
		{"http", "tinyproxy", func(folder, port, cloudPort string) []string {
			file := filepath.Join(folder, "tinyproxy.conf")
			text := fmt.Sprintf("Port %s\nListen 127.0.0.1\nAllow 127.0.0.1\nConnectPort %s\nBasicAuth site secret\nTimeout 600\n", port, cloudPort)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			return []string{"-d", "-c", file}
		}},
		{"socks5", "microsocks", func(_, port, _ string) []string {
			return []string{"-i", "127.0.0.1", "-p", port, "-u", "site", "-P", "secret"}
		}},
	} {
		t.Run(tt.scheme, func(t *testing.T) {
			path, err := exec.LookPath(tt.program)
			if err != nil {
				t.Skipf("%s is not installed: apt-get install tinyproxy-bin microsocks", tt.program)
			}
			c := newCloud(t)
			got := c.listenTo()
			proxy, log := freeAddress(t), &output{}
			_, port, _ := net.SplitHostPort(proxy)
			_, cloudPort, _ := net.SplitHostPort(c.address)
			launch(t, tt.program, log, path, tt.args(t.TempDir(), port, cloudPort)...)
			showOnFailure(t, tt.program, log)
			section := bridge(c.address, c.file, c.valid("greenhouse"))
			through := func(password string) string {
				return strings.Replace(section, "    keep_alive:", fmt.Sprintf("    proxy: %s://%s\n    proxy_username: site\n    proxy_password: %s\n    keep_alive:",
					tt.scheme, proxy, password), 1)
			}
			g := newGateway(t, through("secret"))
			g.start()
			device := g.connect(client.Options{ClientID: "device", KeepAlive: 60})
			carried(t, g, device, got)
			g.interrupt(10 * time.Second)

			g = newGateway(t, through("wrong"))
			g.start()
			eventually(t, 20*time.Second, "the log says what is wrong", func() bool {
				return len(g.log.lines("bridge down", "check proxy_username and proxy_password")) > 0
			})
		})
	}
}

// TestFallback lets the first of two ways to a cloud fail: the bridge takes the second, and returns to the
// first when that leads there again.
func TestFallback(t *testing.T) {
	c := newCloud(t)
	got := c.listenTo()
	first, second := newLink(t, c.address), newLink(t, c.address)
	section := bridge(first.address(), c.file, c.valid("greenhouse"))
	g := newGateway(t, strings.Replace(section, "    keep_alive:", fmt.Sprintf("    fallback: [mqtts://%s]\n    return_after: 1s\n    keep_alive:", second.address()), 1))
	g.start()
	device := g.connect(client.Options{ClientID: "device", KeepAlive: 60})
	connected := func(to *link) int { return len(g.log.lines("bridge connected", to.address())) }
	carried(t, g, device, got)
	first.sever()
	carried(t, g, device, got)
	if connected(first) != 1 || connected(second) != 1 {
		t.Errorf("connected %d times by the first way and %d by the second", connected(first), connected(second))
	}
	first.restore()
	eventually(t, 20*time.Second, "the bridge returns to the first way", func() bool { return connected(first) == 2 })
	carried(t, g, device, got)
}

// TestRenewedFiles takes the authority away from which the certificates of cloud and gateway are. When
// the files of the gateway are those of the new one, it is let in, without a restart.
func TestRenewedFiles(t *testing.T) {
	c := newCloud(t)
	site := c.valid("greenhouse")
	g := newGateway(t, bridge(c.address, c.file, site))
	g.start()
	device := g.connect(client.Options{ClientID: "device", KeepAlive: 60})
	carried(t, g, device, c.listenTo())

	c.process.interrupt(10 * time.Second)
	before, other := c.file, newAuthority(t, "new CA")
	server := other.valid("server")
	text, err := os.ReadFile(c.config)
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"cafile": other.file, "certfile": server.cert, "keyfile": server.key} {
		lines := strings.Split(string(text), "\n")
		for i, l := range lines {
			if strings.HasPrefix(l, from+" ") {
				lines[i] = from + " " + to
			}
		}
		text = []byte(strings.Join(lines, "\n"))
	}
	if err := os.WriteFile(c.config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	c.run()
	eventually(t, 20*time.Second, "the new certificate of the cloud is refused", func() bool {
		return len(g.log.lines("bridge down", "certificate")) > 0
	})
	c.authority = other
	got := c.listenTo()
	renewed := other.valid("greenhouse")
	for from, to := range map[string]string{other.file: before, renewed.cert: site.cert, renewed.key: site.key} {
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	carried(t, g, device, got)
}

// TestCommonName is a cloud whose certificate has its name where certificates had it before 2000.
func TestCommonName(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("needs openssl to make a certificate as in old recipes: apt-get install openssl")
	}
	a := newAuthority(t, "old CA")
	signer := filepath.Join(t.TempDir(), "old")
	server := pair{signer + ".crt", signer + ".key"}
	try(t, openssl, "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", server.key, "-out", signer+".csr")
	ca := pair{signer + "-ca.crt", signer + "-ca.key"}
	try(t, openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=old CA", "-days", "2", "-keyout", ca.key, "-out", ca.cert)
	try(t, openssl, "x509", "-req", "-in", signer+".csr", "-CA", ca.cert, "-CAkey", ca.key, "-CAcreateserial", "-days", "2", "-out", server.cert)
	secure := freeAddress(t)
	up := newGateway(t, fmt.Sprintf(`  - name: old
    address: %s
    tls: {cert: %s, key: %s, client_ca: %s, require_certificate: true}
`, secure, server.cert, server.key, a.file))
	up.start()
	got := make(chan string, 10)
	subscribe(t, up.connect(client.Options{ClientID: "listener", KeepAlive: 60, Receive: func(m packet.Publish) {
		got <- m.Topic + " " + string(m.Payload)
	}}), "greenhouse/#", 1)
	_, port, _ := net.SplitHostPort(secure)
	section := bridge("localhost:"+port, ca.cert, a.valid("greenhouse"))
	g := newGateway(t, section)
	g.start()
	eventually(t, 20*time.Second, "the log tells of verify_name", func() bool { return len(g.log.lines("bridge down", "verify_name")) > 0 })
	g.interrupt(10 * time.Second)
	g = newGateway(t, strings.Replace(section, "tls: {", "tls: {verify_name: cn, ", 1))
	g.start()
	carried(t, g, g.connect(client.Options{ClientID: "device", KeepAlive: 60}), got)
	g.interrupt(10 * time.Second)
	g = newGateway(t, strings.Replace(section, "tls: {", "tls: {verify_name: cn, server_name: other.example, ", 1))
	g.start()
	eventually(t, 20*time.Second, "another name is refused", func() bool { return len(g.log.lines("bridge down", `is for \"localhost\"`)) > 0 })
}

// TestNetworkReturns gives a gateway without a network one, while it rests for up to an hour between two
// tries: it connects at once.
func TestNetworkReturns(t *testing.T) {
	ip, err := exec.LookPath("ip")
	if err != nil {
		t.Skip("needs ip to make a network: apt-get install iproute2")
	}
	if os.Getuid() != 0 {
		t.Skip("only root may give the gateway a network of its own")
	}
	g := newGateway(t, "bridges:\n  - name: cloud\n    url: mqtt://127.0.0.1:1883\n    backoff: {min: 1h, max: 1h}\n    rules: [{direction: out, filter: up/#}]\n")
	g.process = launch(t, "gateway", g.log, "unshare", "--net", "sh", "-c", fmt.Sprintf("%s link set lo up && exec %s run %s", ip, binary, g.config))
	eventually(t, 20*time.Second, "the first try has failed", func() bool { return len(g.log.lines("bridge down")) > 0 })
	inside := func(args ...string) *exec.Cmd {
		return exec.Command("nsenter", append([]string{"--net", "--target", fmt.Sprint(g.cmd.Process.Pid), "--"}, args...)...)
	}
	up := newGateway(t)
	text, err := os.ReadFile(up.config)
	if err == nil {
		err = os.WriteFile(up.config, []byte(strings.Replace(string(text), up.address, "127.0.0.1:1883", 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	command := inside(binary, "run", up.config)
	up.process = launch(t, "cloud", up.log, command.Path, command.Args[1:]...)
	eventually(t, 20*time.Second, "the cloud runs", func() bool { return len(up.log.lines(running)) > 0 })
	if n := len(g.log.lines("bridge connected")); n > 0 {
		t.Skip("it happened to try again before the network came")
	}
	if out, err := inside(ip, "route", "add", "192.0.2.0/24", "dev", "lo").CombinedOutput(); err != nil {
		t.Skipf("no route can be set here: %v: %s", err, out)
	}
	eventually(t, 20*time.Second, "it connects", func() bool { return len(g.log.lines("bridge connected")) > 0 })
}

// A stateBook has the states of a bridge as a client of a broker is told, each with the time at which it
// came.
type stateBook struct {
	mu    sync.Mutex
	words []string
	at    []time.Time
}

func (b *stateBook) add(m packet.Publish) {
	var state struct{ State string }
	if json.Unmarshal(m.Payload, &state) != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.words, b.at = append(b.words, state.State), append(b.at, time.Now())
}

// last returns the state that is told now, and since when.
func (b *stateBook) last() (word string, since time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.words) == 0 {
		return "", time.Time{}
	}
	return b.words[len(b.words)-1], b.at[len(b.at)-1]
}

// TestStatesAreTrue kills the gateway, and lets the line swallow everything: each side tells within one
// and a half times the keep alive, with the default within 45 seconds, that there is no connection
// any more, and soon that there is one again.
func TestStatesAreTrue(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	line := newLink(t, c.address)
	g := newGateway(t, bridge(line.address(), c.file, c.valid("greenhouse")))
	g.start()
	there := &stateBook{}
	subscribe(t, c.connect("watcher", client.Options{Receive: there.add}), "gateway/+/state", 1)
	here := &stateBook{}
	watch := func() {
		subscribe(t, g.connect(client.Options{ClientID: "watcher", KeepAlive: 60, Receive: here.add}), "$SYS/broker/bridge/cloud/state", 1)
	}
	watch()
	tells := func(b *stateBook, want string, limit time.Duration, what string) {
		t.Helper()
		begin := time.Now()
		eventually(t, limit, what, func() bool { word, _ := b.last(); return word == want })
		t.Logf("%s: told after %v", what, time.Since(begin).Round(100*time.Millisecond))
	}
	const silence, slack = 7500 * time.Millisecond, 12500 * time.Millisecond // 1.5 times the keep alive of bridge
	tells(there, "connected", 20*time.Second, "the cloud tells of the connection")
	tells(here, "connected", 20*time.Second, "the gateway tells of the connection")

	g.kill() // the kernel tells the cloud
	tells(there, "offline", silence, "the gateway was killed")
	g.start()
	watch()
	tells(there, "connected", 20*time.Second, "it is back")
	tells(here, "connected", 20*time.Second, "it is back here")

	line.blackhole() // nobody tells
	tells(there, "offline", silence+slack, "the line is silent, there")
	tells(here, "down", silence+slack, "the line is silent, here")
	line.restore()
	tells(there, "connected", 20*time.Second, "the line carries again, there")
	tells(here, "connected", 20*time.Second, "the line carries again, here")
}
