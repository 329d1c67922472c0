package acl_test

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gateway/broker/auth"
	"gateway/broker/auth/acl"
	"gateway/broker/packet"
	"gateway/internal/client"
)

// mosquitto starts Debian's broker with an ACL file and returns its URL.
func mosquitto(t *testing.T, aclFile string) string {
	t.Helper()
	const program = "/usr/sbin/mosquitto"
	if _, err := os.Stat(program); err != nil {
		t.Skipf("needs Debian's mosquitto (apt-get install mosquitto): %v", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	_, port, _ := net.SplitHostPort(address)
	lines := []string{"listener " + port + " 127.0.0.1", "allow_anonymous true", "acl_file " + aclFile, "persistence false", "log_dest stderr"}
	if os.Geteuid() == 0 {
		lines = append(lines, "user root")
	}
	file := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(program, "-c", file)
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("mosquitto says:\n%s", log.String())
		}
	})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return "mqtt://" + address
		}
		if time.Now().After(deadline) {
			t.Fatalf("mosquitto does not listen: %s", log.String())
		}
	}
}

const lines = `# who may do what
topic read public/#
topic readwrite hello world
  topic write  from/anonymous
topic deny public/secret

user anna
topic readwrite house/#
topic deny house/safe/#
topic house/safe/door
topic read public/+
topic write $x/y

user ben jones
topic read #
topic write a/+/c

user root
topic #

user anna
topic write later
`

const patterns = `
pattern readwrite of/%u/#
pattern read id/%c
pattern write id/%c/u/%u
pattern deny of/%u/no
pattern write plain/%
`

// TestLikeMosquitto asks mosquitto and the gateway the same questions.
func TestLikeMosquitto(t *testing.T) {
	topics := []string{
		"public/a", "public/secret", "public/a/b", "public", "world", "hello world", "from/anonymous", "house", "house/x", "house/safe",
		"house/safe/door", "a/b/c", "a/c", "later", "of/anna/x", "of/anna", "of/anna/no", "of/ben jones/x", "of//x", "id/c1", "id/c1/u/anna", "id/c1/u/",
		"id/anna", "plain/%", "other", "of/a/b/x",
	}
	for name, text := range map[string]string{"lines": lines, "lines and patterns": lines + patterns, "patterns": "user root\ntopic #\n" + patterns} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "acl")
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			file, err := acl.OpenFile(path)
			if err != nil {
				t.Fatal(err)
			}
			url := mosquitto(t, path)
			root, err := client.Dial(t.Context(), url, client.Options{ClientID: "root", Username: "root", Version: packet.V5})
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			for _, who := range []struct{ user, id string }{
				{"", "c1"}, {"anna", "c1"}, {"ben jones", "c1"}, {"nobody", "anna"}, {"an+na", "c1"}, {"anna", "c#"}, {"a/b", "c1"},
			} {
				asks := &auth.Client{Identity: auth.Identity{User: who.user}, ID: who.id}
				var mu sync.Mutex
				got := map[string]bool{}
				c, err := client.Dial(t.Context(), url, client.Options{ClientID: who.id, Username: who.user, Version: packet.V5, Receive: func(p packet.Publish) {
					mu.Lock()
					got[p.Topic] = true
					mu.Unlock()
				}})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.Subscribe(t.Context(), packet.Subscription{Filter: "#"}); err != nil {
					t.Fatal(err)
				}
				for _, name := range topics {
					if _, err := root.Publish(t.Context(), packet.Publish{Topic: name, QoS: 1}); err != nil {
						t.Fatal(err)
					}
				}
				// One thread serves all: what was published is on its way before the next answer.
				if _, err := c.Subscribe(t.Context(), packet.Subscription{Filter: "last"}); err != nil {
					t.Fatal(err)
				}
				for _, name := range topics {
					v := file.Authorize(t.Context(), asks, auth.Request{Action: auth.Receive, Topic: name})
					mu.Lock()
					if v.Allowed != got[name] {
						t.Errorf("user %q, client %q may read %q: mosquitto says %t, here %+v", who.user, who.id, name, got[name], v)
					}
					mu.Unlock()
				}
				for _, name := range topics {
					reason, err := c.Publish(t.Context(), packet.Publish{Topic: name, QoS: 1})
					if err != nil && reason != packet.NotAuthorized {
						t.Fatal(err)
					}
					v := file.Authorize(t.Context(), asks, auth.Request{Action: auth.Publish, Topic: name})
					if v.Allowed != (reason != packet.NotAuthorized) {
						t.Errorf("user %q, client %q may write %q: mosquitto says %v, here %+v", who.user, who.id, name, reason, v)
					}
				}
				c.Close()
			}
		})
	}
}

// Mosquitto does not start with these lines either.
func TestBadLines(t *testing.T) {
	for _, line := range []string{"topic", "topic a b", "topic readwrite a/#/b", "user", "users x", "pattern", "pattern write", "topic reads x", "topic read a+"} {
		path := filepath.Join(t.TempDir(), "acl")
		if err := os.WriteFile(path, []byte("topic fine\n"+line+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := acl.OpenFile(path)
		if line == "pattern write" { // a topic that is called so
			if err != nil {
				t.Errorf("%q: %v", line, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), "line 2: ") {
			t.Errorf("%q: %v", line, err)
		}
	}
}
