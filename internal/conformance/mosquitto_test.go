package conformance

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// findMosquitto returns where mosquitto is installed, which may be outside a user's PATH.
func findMosquitto() (string, error) {
	if path, err := exec.LookPath("mosquitto"); err == nil {
		return path, nil
	}
	return exec.LookPath("/usr/sbin/mosquitto")
}

// startMosquitto runs a mosquitto of its own on a loopback port.
func startMosquitto() (tested, error) {
	path, err := findMosquitto()
	if err != nil {
		return tested{}, fmt.Errorf("mosquitto is not installed: %w", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return tested{}, err
	}
	port := ln.Addr().(*net.TCPAddr).Port
	if err := ln.Close(); err != nil {
		return tested{}, err
	}
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		return tested{}, err
	}
	config := fmt.Sprintf("listener %d 127.0.0.1\nallow_anonymous true\nmax_packet_size 100000\n", port)
	file := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return tested{}, err
	}
	cmd := exec.Command(path, "-c", file)
	if err := cmd.Start(); err != nil {
		return tested{}, err
	}
	stop := func() error {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed: its status tells nothing
		return os.RemoveAll(dir)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	for begun := time.Now(); time.Since(begun) < patience; {
		nc, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			_ = nc.Close()
			return tested{"mosquitto", address, stop}, nil
		}
		<-time.After(10 * time.Millisecond)
	}
	_ = stop()
	return tested{}, fmt.Errorf("mosquitto does not listen at %s", address)
}

// TestMosquitto runs the suite against another broker than the gateway: what the tests demand is
// the standard's, not the gateway's own. Where mosquitto differs is in the table below.
func TestMosquitto(t *testing.T) {
	t.Parallel()
	if under.name != "gateway" {
		t.Skip("the suite runs against another broker already")
	}
	if _, err := findMosquitto(); err != nil {
		t.Skip("mosquitto is not installed")
	}
	out, err := exec.Command(os.Args[0], "-target", "mosquitto", "-test.timeout", "60s").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
