package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// TestCommandsHaveToBeNamed lets clients publish everything in each way that there is. Commands are not
// among it before a rule names their topic, neither as messages nor as wills.
func TestCommandsHaveToBeNamed(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})) // 200 to everything
	t.Cleanup(service.Close)
	acl := func(lines string) string {
		file := filepath.Join(t.TempDir(), "acl")
		if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	asked := fmt.Sprintf("  http_auth:\n    auth_req: {url: %q}\n    acl_req: {url: %[1]q}\n", service.URL)
	for _, tt := range []struct {
		name, auth string
		warned     string // by "gateway check"; empty: nothing
		allowed    bool
	}{
		{"rules", "  rules: [{allow: publish, topics: '#'}]\n", "gateway.yaml:", false},
		{"rules that name it", "  rules: [{allow: publish, topics: '#'}, {allow: publish, topics: +/set}]\n", "", true},
		{"a file", "  acl_file: " + acl("topic readwrite #\n") + "\n", "acl:1: topic readwrite #", false},
		{"a file that names it", "  acl_file: " + acl("topic readwrite #\ntopic write vent/set\n") + "\n", "", true},
		{"a service", asked, "whatever acl_req says", false},
		{"a service and a rule that names it", asked + "  rules: [{allow: publish, topics: vent/#}]\n", "", true},
	} {
		g := newGateway(t, "board: sim\noutputs: [{point: vent, line: VENT, safe: off}]\nauth:\n"+tt.auth)
		text, err := os.ReadFile(g.config)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(tt.auth, "http_auth") {
			text = []byte(strings.Replace(string(text), "anonymous: true", "auth: http", 1))
			if err := os.WriteFile(g.config, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		check, err := exec.Command(binary, "check", g.config).CombinedOutput()
		if err != nil || strings.Contains(string(check), "commands to vent are denied") != (tt.warned != "") || !strings.Contains(string(check), tt.warned) {
			t.Errorf("%s: check says %s, %v, want %q", tt.name, check, err, tt.warned)
		}
		g.start()
		c := g.connect(client.Options{Version: packet.V5, ClientID: "a", Username: "ann", Password: "x"})
		for topic, allowed := range map[string]bool{"vent/set": tt.allowed, "other": true} {
			reason, err := c.Publish(t.Context(), packet.Publish{Topic: topic, Payload: []byte("on"), QoS: 1})
			if (reason == packet.NotAuthorized) == allowed || err != nil && !reason.Failed() {
				t.Errorf("%s: %s: %v, %v, want %t", tt.name, topic, reason, err, allowed)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		w, err := client.Dial(ctx, "mqtt://"+g.address, client.Options{
			Version: packet.V5, ClientID: "b", Username: "ann", Password: "x", Will: &packet.Will{Topic: "vent/set", Payload: []byte("on")},
		})
		cancel()
		if (err == nil) != tt.allowed {
			t.Errorf("%s: a will: %v", tt.name, err)
		}
		if err == nil {
			w.Close()
		}
		g.kill()
	}
}
