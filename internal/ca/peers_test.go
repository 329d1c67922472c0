package ca

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// need skips when a program is not installed.
func need(t *testing.T, programs ...string) {
	t.Helper()
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin")
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed (apt install openssl mosquitto mosquitto-clients)", p)
		}
	}
}

func TestOpenSSLAccepts(t *testing.T) {
	need(t, "openssl")
	a, server, client := site(t)
	for _, tt := range []struct {
		args []string
		ok   bool
	}{
		{[]string{"-purpose", "sslserver", "-verify_hostname", "localhost", server.Cert}, true},
		{[]string{"-purpose", "sslserver", "-verify_ip", "127.0.0.1", server.Cert}, true},
		{[]string{"-purpose", "sslclient", client.Cert}, true},
		{[]string{"-purpose", "sslclient", server.Cert}, false},
		{[]string{"-purpose", "sslserver", client.Cert}, false},
		{[]string{"-purpose", "sslserver", "-verify_hostname", "other.example", server.Cert}, false},
	} {
		args := append([]string{"verify", "-x509_strict", "-CAfile", a.Files().Cert}, tt.args...)
		out, err := exec.Command("openssl", args...).CombinedOutput()
		if (err == nil) != tt.ok {
			t.Errorf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// TestMosquittoAccepts runs a broker that requires certificates, and its own clients against it.
func TestMosquittoAccepts(t *testing.T) {
	need(t, "mosquitto", "mosquitto_pub")
	a, server, client := site(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().(*net.TCPAddr)
	free.Close()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(a.dir, "mosquitto.conf")
	acl := filepath.Join(a.dir, "acl")
	if err := os.WriteFile(acl, []byte("user thermometer-3\ntopic readwrite t\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, fmt.Appendf(nil, "user %s\nlistener %d 127.0.0.1\ncafile %s\ncertfile %s\nkeyfile %s\n"+
		"require_certificate true\nuse_identity_as_username true\nacl_file %s\n",
		me.Username, address.Port, a.Files().Cert, server.Cert, server.Key, acl), 0o600); err != nil {
		t.Fatal(err)
	}
	broker := exec.Command("mosquitto", "-c", conf)
	var log strings.Builder
	broker.Stderr = &log
	if err := broker.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		broker.Process.Kill()
		broker.Wait()
		if t.Failed() {
			t.Logf("mosquitto says:\n%s", log.String())
		}
	})
	await(t, address.String())
	pub := func(extra ...string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		// In MQTT 5 the broker tells a publisher that it may not.
		args := append([]string{"-V", "5", "-h", "localhost", "-p", fmt.Sprint(address.Port), "-q", "1", "-t", "t", "-m", "x", "--cafile", a.Files().Cert}, extra...)
		return exec.CommandContext(ctx, "mosquitto_pub", args...).CombinedOutput()
	}
	if out, err := pub("--cert", client.Cert, "--key", client.Key); err != nil || len(out) > 0 {
		t.Errorf("with the client's certificate: %v\n%s", err, out)
	}
	if out, err := pub(); err == nil {
		t.Errorf("without a certificate the broker let the client in\n%s", out)
	}
	if out, err := pub("--cert", server.Cert, "--key", server.Key); err == nil {
		t.Errorf("the broker took a server's certificate for a client's\n%s", out)
	}
}

// await returns when something listens on address.
func await(t *testing.T, address string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}
