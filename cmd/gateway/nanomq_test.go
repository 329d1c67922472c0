package main

import (
	"strings"
	"testing"

	"gateway/config"
)

const nanoMQConf = `# NanoMQ
listeners.tcp { bind = "0.0.0.0:1883" }
rules = [{sql = "a", table : t}, [1, 2], "x"]
auth {
  allow_anonymous = true  # no
  no_match = allow
  http_auth = {
    auth_req {
      url = "http://127.0.0.1:80/mqtt/auth"
      method = "POST"
      headers.content-type = "application/x-www-form-urlencoded"
      params = {clientid = "%c", username = "%u", password = "%P"}
    }
    super_req {
      url = "http://127.0.0.1:80/mqtt/superuser"
      method = "POST"
      headers.content-type = "application/x-www-form-urlencoded"
      params = {clientid = "%c", username = "%u", password = "%P"}
    }
    acl_req {
      url = "http://127.0.0.1:8991/mqtt/acl"
      method = "POST"
      headers.content-type = "application/x-www-form-urlencoded"
      params = {clientid = "%c", username = "%u", access = "%A", ipaddr = "%a", topic = "%t", mountpoint = "%m"}
    }
    timeout = 5s
    connect_timeout = 5s
    pool_size = 32
    tls.keyfile = "x"
  }
}
`

// What is translated is a configuration of the gateway that means the same.
func TestNanoMQ(t *testing.T) {
	for name, src := range map[string]string{
		"HOCON": nanoMQConf,
		"one key a line": `auth.http.enable = true
auth.http.auth_req.url = http://127.0.0.1:80/mqtt/auth
auth.http.auth_req.method = post
auth.http.auth_req.headers.content-type = application/x-www-form-urlencoded
auth.http.auth_req.params.clientid = %c
auth.http.auth_req.params.username = %u
auth.http.auth_req.params.password = %P
auth.http.timeout = 5s`,
	} {
		text, err := translateNanoMQ(src)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if strings.Contains(text, "# empty") {
			t.Errorf("%s: said to be empty:\n%s", name, text)
		}
		c, err := config.Parse("gateway.yaml", []byte("listeners: [{name: a, address: \"127.0.0.1:0\", auth: http}]\n"+text), nil)
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, text)
			continue
		}
		h := c.Auth.HTTP
		if h.Auth.URL != "http://127.0.0.1:80/mqtt/auth" || len(h.Auth.Params) != 3 || h.Auth.Params["password"] != "%P" || len(h.Auth.Headers) != 1 {
			t.Errorf("%s: %+v", name, h.Auth)
		}
		if name == "HOCON" && (h.Super == nil || h.ACL == nil || h.ACL.Params["mountpoint"] != "%m" || len(h.ACL.Params) != 6 || !strings.Contains(text, `# tls.keyfile = "x"`)) {
			t.Errorf("%+v\n%s", h, text)
		}
	}
	for src, want := range map[string]string{
		"":                             "it has no block http_auth",
		"auth { http_auth = {":         "line 1: a } is missing at the end",
		"a = [1, 2":                    "line 1: a ] is missing at the end",
		"a = \"x\nb = 1":               "line 1: a text in quotes does not end",
		"\na":                          "line 2: a has no value",
		"}":                            "line 1: a key is wanted",
		"a = [}]":                      "line 1: '}' within a list",
		strings.Repeat("a{", 40):       "more than 32 objects",
		strings.Repeat("a=[", 100):     "a ] is missing",
		"a=" + strings.Repeat("[", 99): "more than 32 lists",
		strings.Repeat("x", 1<<20+1):   "larger than",
	} {
		if _, err := translateNanoMQ(src); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %s", src, err, want)
		}
	}
}

func FuzzNanoMQ(f *testing.F) {
	f.Add(nanoMQConf)
	f.Add("a=[{b:{}},\"\\\"\"]//x\nc{d=e}")
	f.Fuzz(func(t *testing.T, src string) {
		text, err := translateNanoMQ(src)
		if err != nil {
			return
		}
		// Whatever it is, it stays within its places: there is no other section.
		for line := range strings.Lines(text) {
			if line[0] != ' ' && line != "auth:\n" {
				t.Errorf("%q", line)
			}
		}
	})
}

// A password in acl_req is said to be empty, which it is there and nowhere else.
func TestNanoMQPassword(t *testing.T) {
	text, err := translateNanoMQ(strings.Replace(nanoMQConf, `mountpoint = "%m"`, `secret = "x%P"`, 1))
	if want := "\"secret\": \"x%P\" # empty: the password is not kept after the login\n"; err != nil || strings.Count(text, "# empty") != 1 || !strings.Contains(text, want) {
		t.Errorf("%v\n%s", err, text)
	}
}
