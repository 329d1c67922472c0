package config

import (
	"maps"
	"strings"
	"testing"
	"time"
)

// The block of NanoMQ's documentation, as YAML.
const nanoMQ = `listeners:
  - {name: local, address: "127.0.0.1:1883", auth: [device, http]}
auth:
  http_auth:
    auth_req:
      url: "http://127.0.0.1:80/mqtt/auth"
      method: "POST"
      headers:
        content-type: "application/x-www-form-urlencoded"
      params: {clientid: "%c", username: "%u", password: "%P"}
    super_req:
      url: "http://127.0.0.1:80/mqtt/superuser"
      method: "POST"
      headers: {content-type: "application/x-www-form-urlencoded"}
      params: {clientid: "%c", username: "%u", password: "%P"}
    acl_req:
      url: "http://127.0.0.1:8991/mqtt/acl"
      method: "POST"
      headers: {content-type: "application/x-www-form-urlencoded"}
      params: {clientid: "%c", username: "%u", access: "%A", ipaddr: "%a", topic: "%t", mountpoint: "%m"}
    timeout: 5s
    connect_timeout: 5s
    pool_size: 32
    cache_ttl: 0s
`

func TestHTTPAuth(t *testing.T) {
	c, err := Parse("gateway.yaml", []byte(nanoMQ), nil)
	if err != nil || len(c.Warnings) > 0 {
		t.Fatal(err, c.Warnings)
	}
	h := c.Auth.HTTP
	want := map[string]string{"clientid": "%c", "username": "%u", "access": "%A", "ipaddr": "%a", "topic": "%t", "mountpoint": "%m"}
	if h.ACL == nil || !maps.Equal(h.ACL.Params, want) || h.ACL.URL != "http://127.0.0.1:8991/mqtt/acl" || h.Super == nil || h.Auth.Headers["content-type"] == "" {
		t.Errorf("%+v", h)
	}
	if h.PoolSize != 32 || h.CacheTTL != 0 || h.RefusedTTL != 5*time.Second || h.OnError != "deny" {
		t.Errorf("%+v", h)
	}
}

func TestHTTPAuthProblems(t *testing.T) {
	const url = `url: "http://127.0.0.1:80/mqtt/auth"`
	for _, tt := range []struct{ old, new, want string }{
		{url, `url: "ftp://x"`, `gateway.yaml:6: auth.http_auth.auth_req.url: http://host:port/path or https://host:port/path, without a user, not "ftp://x"`},
		{url, `url: "http://u:secret@x"`, `without a user, not "…@x"`},
		{url, `url: ""`, "gateway.yaml:6: auth.http_auth.auth_req.url: must not be empty"},
		{`method: "POST"`, "method: HEAD", "gateway.yaml:7: auth.http_auth.auth_req.method: POST or PUT"},
		{"content-type:", `"content type":`, `gateway.yaml:9: auth.http_auth.auth_req.headers."content type": this cannot be a header`},
		{"application/x-www-form-urlencoded", "text/xml", `auth_req.headers."content-type": application/json or application/x-www-form-urlencoded, not "text/xml"`},
		{`"%P"`, `"%x"`, "gateway.yaml:10: auth.http_auth.auth_req.params.password: unknown placeholder %x; known are"},
		{`"%P"`, `["%P"]`, "auth_req.params.password: one value is wanted here, not a list"},
		{`username: "%u", password`, `password: "%u", password`, "auth_req.params.password: given twice; keep one"},
		{`username: "%u", password`, `username: , password`, "auth_req.params.username: has no value"},
		{"    timeout: 5s", "    grace: 5h", "auth.http_auth.grace: only with on_error: cached"},
		{"    timeout: 5s", "    tls: {ca: x}", "auth.http_auth.tls: only with https:// URLs"},
		{"    timeout: 5s", "    tls: {cert: x}", "auth.http_auth.tls: cert and key come together"},
		{"  http_auth:\n    auth_req:", "  http_auth:\n    supr_req:", "auth.http_auth.auth_req: missing; add it"},
	} {
		src := strings.Replace(nanoMQ, tt.old, tt.new, 1)
		if src == nanoMQ {
			t.Fatalf("%q is not there", tt.old)
		}
		_, err := Parse("gateway.yaml", []byte(src), nil)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret@") {
			t.Errorf("%s: %v\nwant %s", tt.new, err, tt.want)
		}
	}
	_, err := Parse("gateway.yaml", []byte(strings.Split(nanoMQ, "auth:\n  http_auth")[0]), nil)
	if err == nil || !strings.Contains(err.Error(), "listeners[0].auth: http needs auth.http_auth, which says where the service is") {
		t.Error(err)
	}
}

// What the file may say, but should not be said by accident.
func TestHTTPAuthWarnings(t *testing.T) {
	for _, tt := range []struct{ old, new, want string }{
		{"auth: [device, http]", "auth: [device]", "auth.http_auth: no listener asks this service"},
		{"127.0.0.1:1883", "0.0.0.0:1883", "listeners[0].auth: passwords are sent as they are"},
		{"http://127.0.0.1:80/mqtt/auth", "http://example.com/", "auth.http_auth.auth_req.url: passwords cross the network in the clear"},
		{`"%u", password`, `"%t", password`, `auth.http_auth.auth_req.params.username: "%t" is empty here`},
		{`access: "%A"`, `access: "%P"`, "auth.http_auth.acl_req.params.access: the password is empty here"},
	} {
		c, err := Parse("gateway.yaml", []byte(strings.Replace(nanoMQ, tt.old, tt.new, 1)), nil)
		if err != nil {
			t.Errorf("%s: %v", tt.new, err)
			continue
		}
		if len(c.Warnings) != 1 || !strings.Contains(c.Warnings.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.new, c.Warnings, tt.want)
		}
	}
}
