package e2e

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// TestCertificates takes the certificates that "gateway ca" makes through the whole line: a
// device with mosquitto's own client, the gateway's listener, the bridge, mosquitto as the cloud,
// and "gateway sub" there. Who has no certificate stays outside, and is told why.
func TestCertificates(t *testing.T) {
	publisher := mosquitto(t, "mosquitto_pub")
	dir := filepath.Join(t.TempDir(), "ca")
	for _, args := range [][]string{{"init"}, {"server", "localhost", "127.0.0.1"}, {"client", "greenhouse"}, {"client", "thermometer"}} {
		if out, err := exec.Command(binary, append([]string{"ca", "--dir", dir}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("gateway ca %q: %v\n%s", args, err, out)
		}
	}
	of := func(name string) pair {
		return pair{filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")}
	}
	ca, server, thermometer := filepath.Join(dir, "ca.crt"), of("localhost"), of("thermometer")
	up := &cloud{authority: &authority{t: t}, log: &output{}}
	up.start(ca, server)
	secure := freeAddress(t)
	g := newGateway(t, fmt.Sprintf(`  - name: devices
    address: %s
    tls: {cert: %s, key: %s, client_ca: %s, require_certificate: true}
`, secure, server.cert, server.key, ca), bridge(up.address, ca, of("greenhouse")))
	g.start()

	received := &output{}
	launch(t, "gateway sub", received, binary, "sub", "--url", "mqtts://"+up.address,
		"--cafile", ca, "--cert", thermometer.cert, "--key", thermometer.key, "greenhouse/#")
	_, port, _ := net.SplitHostPort(secure)
	eventually(t, 10*time.Second, "what the device publishes is printed at the cloud", func() bool {
		out, err := exec.Command(publisher, "-h", "localhost", "-p", port, "--cafile", ca, "--cert", thermometer.cert,
			"--key", thermometer.key, "-t", "up/temperature", "-m", "21.5", "-q", "1").CombinedOutput()
		if err != nil {
			t.Fatalf("mosquitto_pub: %v\n%s", err, out)
		}
		return len(received.lines("greenhouse/up/temperature 21.5")) > 0
	})

	for _, tt := range []struct {
		name, want string
		args       []string
	}{
		{"no certificate", "refuses the TLS connection (tls: certificate required)", []string{"--url", "mqtts://" + secure, "--cafile", ca}},
		{"another authority", "is not trusted", []string{"--url", "mqtts://" + secure, "--cafile", newAuthority(t, "other").file}},
		{"no TLS", "if it expects TLS", []string{"--url", "mqtt://" + secure}},
		{"TLS to a plain listener", "is this its port for mqtts://?", []string{"--url", "mqtts://" + g.address, "--cafile", ca}},
	} {
		out, err := exec.Command(binary, append([]string{"health"}, tt.args...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), tt.want) || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%s: err = %v, says %q, want one line with %q", tt.name, err, out, tt.want)
		}
	}
}

// A client is disconnected when the certificate that let it in ends.
func TestCertificateEnds(t *testing.T) {
	a := newAuthority(t, "CA")
	server := a.valid("server")
	secure := freeAddress(t)
	g := newGateway(t, fmt.Sprintf(`  - name: devices
    address: %s
    tls: {cert: %s, key: %s, client_ca: %s, require_certificate: true}
`, secure, server.cert, server.key, a.file))
	g.start()
	end := time.Now().Add(3 * time.Second).Truncate(time.Second)
	for _, name := range []string{"short", "long"} {
		p := a.valid(name)
		if name == "short" {
			p = a.issue(name, end)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := client.Dial(ctx, "mqtts://"+secure, client.Options{ClientID: name, TLS: a.client(p)})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if name == "long" {
			if err := c.Send(ctx, packet.Publish{Topic: "x", QoS: 1}, nil); err != nil {
				t.Error(err)
			}
			continue
		}
		select {
		case <-c.Done():
			if early := time.Until(end); early > 0 {
				t.Errorf("%v, %v before the certificate ends", c.Err(), early)
			}
			eventually(t, 5*time.Second, "the log says why", func() bool { return len(g.log.lines("client disconnected", "client=short", "has expired")) == 1 })
		case <-ctx.Done():
			t.Error("the client goes on after the end of its certificate")
		}
	}
}
