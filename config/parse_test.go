package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// environ is an environment with one variable.
func environ(name string) (string, bool) {
	if name == "CLOUD_PASSWORD" {
		return "s3cret", true
	}
	return "", false
}

// good is the least file that every test can add to.
const good = `gateway: {id: gh1}
listeners:
  - {name: local, address: "127.0.0.1:1883", anonymous: true}
`

func parse(t *testing.T, src string) *Config {
	t.Helper()
	c, err := Parse("gateway.yaml", []byte(src), environ)
	if err != nil {
		t.Fatalf("Parse:\n%v", err)
	}
	return c
}

func TestEverythingIsReportedAtOnce(t *testing.T) {
	src := `gateway:
  id: gh/1
  lgo: info
bord: linux
board: pi
store: {max_size: 10XB, telemetry_commit: 5}
limits:
  connections: many
listeners:
  - name: local
    address: "1883"
  - name: local
    address: ":8883"
    tls: {cert: a.pem, require_certificate: yes please}
bridges:
  - name: cloud
    url: http://cloud.example
    window: 70000
    keep_alive: 30
inputs:
  - {point: greenhouse/+, line: GPIO17, pull: sideways}
`
	want := `gateway.yaml:2: gateway.id: 1 to 128 printable characters without + # and /, as it becomes part of topics, not "gh/1"
gateway.yaml:3: gateway.lgo: unknown key; did you mean log?
gateway.yaml:4: bord: unknown key; did you mean board?
gateway.yaml:5: board: linux or sim, not "pi"
gateway.yaml:6: store.max_size: a size, as 64KiB or 512MB, not "10XB"
gateway.yaml:6: store.telemetry_commit: a time with its unit, as 20ms, 1s, 2m, 1h30m or 7d, not "5"
gateway.yaml:8: limits.connections: a whole number, not "many"
gateway.yaml:10: listeners[0]: nobody can log in here; set anonymous: true, or auth, or give tls with client_ca and require_certificate: true
gateway.yaml:11: listeners[0].address: host:port or :port, not "1883"; 1883 is usual, 8883 for TLS
gateway.yaml:12: listeners[1].name: "local" is already used by listeners[0].name on line 10; change one
gateway.yaml:14: listeners[1].tls.require_certificate: true or false, not "yes please"
gateway.yaml:14: listeners[1].tls.key: missing; add it
gateway.yaml:14: listeners[1].tls: nobody can log in here; set require_certificate: true, or auth or anonymous: true for the listener
gateway.yaml:16: bridges[0].rules: nothing would cross this bridge; add a rule
gateway.yaml:17: bridges[0].url: mqtt://host:port, mqtts://host:port, ws://host:port/path or wss://host:port/path, not "http://cloud.example"
gateway.yaml:18: bridges[0].window: from 1 to 1024, not 70000
gateway.yaml:19: bridges[0].keep_alive: a time with its unit, as 20ms, 1s, 2m, 1h30m or 7d, not "30"
gateway.yaml:21: inputs[0].pull: none or up or down, not "sideways"
gateway.yaml:21: inputs[0].point: a topic without wildcards + and #, not "greenhouse/+"`
	c, err := Parse("gateway.yaml", []byte(src), environ)
	if c != nil {
		t.Error("a configuration came with the problems")
	}
	var problems Problems
	if !errors.As(err, &problems) {
		t.Fatalf("error is a %T, want Problems", err)
	}
	if got := err.Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestProblems(t *testing.T) {
	const bridge = good + "bridges:\n  - name: cloud\n    url: mqtt://localhost\n    rules: [{direction: out, filter: a}]\n"
	const serial = good + "serial:\n  - port: /dev/ttyUSB0\n    frames:\n      - format: "
	for _, tt := range []struct{ name, src, want string }{
		// The form of the file.
		{"empty", "", "gateway.yaml:1: nothing to do; give listeners, inputs, outputs, serial or bridges"},
		{"only comments", "# later\n", "gateway.yaml:1: nothing to do"},
		{"syntax", "a: [1, 2\nb: 3\n", "gateway.yaml:2: "},
		{"tab", "gateway:\n\tid: x\n", "gateway.yaml:2: "},
		{"not UTF-8", "gateway:\n  id: \xff\n", "gateway.yaml:2: not UTF-8 text; save the file as UTF-8"},
		{"too large", strings.Repeat("# \n", maxFile), "gateway.yaml: larger than 1 MiB"},
		{"flow depth", "a: " + strings.Repeat("[", 100000), "gateway.yaml:1: more than 32 sections within each other"},
		{"block depth", strings.Repeat("- ", 100000), "gateway.yaml:1: more than 32 sections within each other"},
		{"depth of entries in a list", "a: [" + strings.Repeat("- ", 100000), "gateway.yaml:1: more than 32 sections within each other"},
		{"width", strings.Repeat("a: 1\n", 100000), "gateway.yaml:10001: more than 10000 entries in one section"},
		{"alias", "a: &x 1\nb: *x\n", `gateway.yaml:1: "&": anchors, aliases, tags and directives are not used here`},
		{"merge", "a:\n  <<: {b: 1}\n", `gateway.yaml:2: "<<": anchors`},
		{"tag", "a: !!str 1\n", `gateway.yaml:1: "!!str": anchors`},
		{"second document", good + "---\nboard: sim\n", "gateway.yaml:5: a second document"},
		{"a list", "- a\n", "gateway.yaml:1: keys with values are wanted here, as in key: value, not a list"},
		{"a word", "gateway\n", `gateway.yaml:1: keys with values are wanted here, as in key: value, not "gateway"`},
		// Keys and their types.
		{"strategy", strings.Replace(good, "gh1", "gh1, shared_subscriptions: sticky", 1), "gateway.yaml:1: gateway.shared_subscriptions: "},
		{"twice", good + "board: linux\nboard: sim\n", "gateway.yaml:5: board: given twice, first on line 4; keep one"},
		{"no value", good + "board:\n", "gateway.yaml:4: board: has no value; give it one, or remove the key"},
		{"far from any key", good + "store: {zzzzzz: 1}\n", "gateway.yaml:4: store.zzzzzz: unknown key; known here: path, max_size, telemetry_commit"},
		{"odd key", good + "\"a b\": 1\n", `gateway.yaml:4: "a b": unknown key`},
		{"section as text", good + "store: big\n", `gateway.yaml:4: store: keys with values are wanted here, as in key: value, not "big"`},
		{"list as section", good + "inputs: {point: a}\n", "gateway.yaml:4: inputs: a list is wanted here, entries that begin with -, not keys with values"},
		{"value as list", good + "board: [sim]\n", "gateway.yaml:4: board: one value is wanted here, not a list"},
		{"empty entry", good + "inputs:\n  -\n", "inputs[0]: an empty entry"},
		{"number as text", "gateway: {id: 12}\n" + good[19:], `gateway.yaml:1: gateway.id: text is wanted; write it in quotes: "12"`},
		{"bool as text", good + "inputs: [{point: a, line: b, on: true}]\n", `gateway.yaml:4: inputs[0].on: text is wanted; write it in quotes: "true"`},
		{"octal", good + "limits: {connections: 010}\n", `gateway.yaml:4: limits.connections: a whole number, not "010"`},
		{"huge", good + "limits: {connections: 99999999999999999999}\n", "gateway.yaml:4: limits.connections: a whole number"},
		{"infinite", good + "board: sim\nsim: {speed: .inf}\n", `gateway.yaml:5: sim.speed: a number, not ".inf"`},
		{"size overflow", good + "store: {max_size: 9999999999999GB}\n", "gateway.yaml:4: store.max_size: a size"},
		{"size range", good + "store: {max_size: 2GB}\n", "gateway.yaml:4: store.max_size: from 1MB to 1GB, not 2GB"},
		{"negative time", good + "store: {telemetry_commit: -1s}\n", "gateway.yaml:4: store.telemetry_commit: from 0s to 1m, not -1s"},
		{"short time", good + "store: {telemetry_commit: 5us}\n", "gateway.yaml:4: store.telemetry_commit: 0s, or at least 1ms"},
		{"days", good + "outputs: [{point: a, line: l, safe: off, lease: 1d25h}]\n", "gateway.yaml:4: outputs[0].lease: a time with its unit"},
		{"variable", good + "store: {path: \"${HOME}\"}\n", "gateway.yaml:4: store.path: ${HOME} is not replaced here; only secrets take a variable, as {env: NAME}"},
		{"required and empty", good + "inputs: [{point: \"\", line: b}]\n", "gateway.yaml:4: inputs[0].point: must not be empty"},
		// Secrets.
		{"secret variable", bridge + "    username: u\n    password: $PW\n", "gateway.yaml:9: bridges[0].password: $PW is not replaced; write {env: PW}"},
		{"secret number", bridge + "    username: u\n    password: 1234\n", "gateway.yaml:9: bridges[0].password: text is wanted; write it in quotes, or use {file: path}"},
		{"secret unset", bridge + "    username: u\n    password: {env: NOPE}\n", "gateway.yaml:9: bridges[0].password.env: NOPE is not set in the environment; set it, or use {file: path}"},
		{"secret twice", bridge + "    username: u\n    password: {env: A, file: b}\n", "gateway.yaml:9: bridges[0].password: give one of {file: path} and {env: NAME}"},
		{"secret key", bridge + "    username: u\n    password: {fle: b}\n", "gateway.yaml:9: bridges[0].password.fle: unknown key; did you mean file?"},
		{"password alone", bridge + "    password: x\n", "gateway.yaml:8: bridges[0].password: needs a username [MQTT-3.1.2-22]"},
		// Listeners.
		{"port taken", good + "  - {name: b, address: \":1883\", anonymous: true}\n", "gateway.yaml:4: listeners[1].address: :1883 is already taken by listeners[0].address on line 3; change the port"},
		{"port taken by all", good + "  - {name: b, address: \"0.0.0.0:1883\", anonymous: true}\n", "gateway.yaml:4: listeners[1].address: 0.0.0.0:1883 is already taken"},
		{"bad port", good + "  - {name: b, address: \":mqtt\", anonymous: true}\n", `gateway.yaml:4: listeners[1].address: the port is a number from 0 to 65535, not "mqtt"`},
		{"bad host", good + "  - {name: b, address: \"a b:1\", anonymous: true}\n", `gateway.yaml:4: listeners[1].address: "a b" is neither an IP address nor a host name`},
		{"require without CA", good + "  - {name: b, address: \":1\", tls: {cert: c, key: k, require_certificate: true}}\n", "gateway.yaml:4: listeners[1].tls.require_certificate: needs client_ca"},
		{"plain where a certificate is required", good + "  - {name: b, address: \":1\", tls: {cert: c, key: k, client_ca: a, require_certificate: true, plain: true}}\n", "gateway.yaml:4: listeners[1].tls.plain: nobody can log in without TLS where a certificate is required"},
		{"list without CA", good + "  - {name: b, address: \":1\", anonymous: true, tls: {cert: c, key: k, crl: l}}\n", "gateway.yaml:4: listeners[1].tls.crl: needs client_ca"},
		{"protocol", good + "  - {name: b, address: \"127.0.0.1:1\", anonymous: true, protocols: [mqtt, coap]}\n", `gateway.yaml:4: listeners[1].protocols[1]: mqtt or websocket or http, not "coap"`},
		{"protocol twice", good + "  - {name: b, address: \"127.0.0.1:1\", anonymous: true, protocols: [mqtt, mqtt]}\n", `gateway.yaml:4: listeners[1].protocols[1]: "mqtt" is given twice; keep one`},
		{"no protocol", good + "  - {name: b, address: \"127.0.0.1:1\", anonymous: true, protocols: []}\n", "gateway.yaml:4: listeners[1].protocols: an empty list; give it entries, or remove the key"},
		{"empty protocol", good + "  - {name: b, address: \"127.0.0.1:1\", anonymous: true, protocols: [mqtt, ]}\n  - {name: c, address: \"127.0.0.1:2\", anonymous: true, protocols: [~]}\n", "gateway.yaml:5: listeners[2].protocols[0]: an empty entry; give it a value or remove it"},
		{"version", good + "  - {name: b, address: \"127.0.0.1:1\", anonymous: true, versions: [3.1, 4]}\n", `gateway.yaml:4: listeners[1].versions[1]: 3.1 or 3.1.1 or 5.0, not "4"`},
		{"WebSocket without the protocol", good + "  - {name: b, address: \"127.0.0.1:1\", anonymous: true, websocket: {path: /ws}}\n", "gateway.yaml:4: listeners[1].websocket: only with protocols: [websocket]"},
		{"path", good + "  - {name: b, address: \"127.0.0.1:1\", anonymous: true, protocols: websocket, websocket: {path: mqtt}}\n", `gateway.yaml:4: listeners[1].websocket.path: begins with / and is only a path, not "mqtt"`},
		{"origin", good + "  - {name: b, address: \"127.0.0.1:1\", anonymous: true, protocols: websocket, websocket: {origins: [\"https://a.example\", \"https://a.example/\"]}}\n", "gateway.yaml:4: listeners[1].websocket.origins[1]: https://HOST or https://HOST:PORT"},
		{"socket settings without a socket", good + "  - {name: b, address: \"127.0.0.1:1\", anonymous: true, socket: {mode: 0600}}\n", "gateway.yaml:4: listeners[1].socket: only with an address unix:PATH"},
		{"socket mode", good + "  - {name: b, address: unix:mqtt.sock, anonymous: true, socket: {mode: rw}}\n", `gateway.yaml:4: listeners[1].socket.mode: octal, as 0660, not "rw"`},
		{"socket twice", good + "  - {name: b, address: unix:mqtt.sock, anonymous: true}\n  - {name: c, address: unix:./mqtt.sock, anonymous: true}\n", `gateway.yaml:5: listeners[2].address: "unix:`},
		{"socket without a path", good + "  - {name: b, address: \"unix:\", anonymous: true}\n", "gateway.yaml:4: listeners[1].address: unix:PATH"},
		{"long path", good + "  - {name: b, address: unix:/" + strings.Repeat("x", 106) + ", anonymous: true}\n", "gateway.yaml:4: listeners[1].address: the path of a socket has at most 106 bytes"},
		{"listener's limit", good + "  - {name: b, address: \"127.0.0.1:1\", anonymous: true, limits: {connections: 0}}\n", "gateway.yaml:4: listeners[1].limits.connections: from 1 to 100000, not 0"},
		{"listener's keep alive", good + "  - {name: b, address: \"127.0.0.1:1\", anonymous: true, limits: {keep_alive: 1500ms}}\n", "gateway.yaml:4: listeners[1].limits.keep_alive: whole seconds, not 1.5s"},
		{"prefix", good + "  - {name: b, address: \"127.0.0.1:1\", anonymous: true, prefix: hall}\n", `gateway.yaml:4: listeners[1].prefix: ends with /, as "hall/"`},
		{"prefix with $", good + "  - {name: b, address: \"127.0.0.1:1\", anonymous: true, prefix: $SYS/}\n", "gateway.yaml:4: listeners[1].prefix: "},
		{"prefix in a prefix", good + "  - {name: b, address: \"127.0.0.1:1\", anonymous: true, prefix: hall/}\n  - {name: c, address: \"127.0.0.1:2\", anonymous: true, prefix: hall/2/}\n", `gateway.yaml:5: listeners[2].prefix: "hall/2/" and "hall/" of listeners[1] on line 4 are parts of each other`},
		{"both logins", good + "  - {name: b, address: \":1\", anonymous: true, tls: {cert: c, key: k, client_ca: a, require_certificate: true}}\n", "gateway.yaml:4: listeners[1].anonymous: contradicts tls.require_certificate; remove one of them"},
		// Bridges.
		{"TLS without mqtts", bridge + "    tls: {ca: ca.pem}\n", "gateway.yaml:8: bridges[0].tls: only with an mqtts:// or wss:// URL"},
		{"cert without key", good + "bridges:\n  - name: c\n    url: mqtts://h\n    tls: {cert: c.pem}\n    rules: [{direction: out, filter: a}]\n", "gateway.yaml:7: bridges[0].tls: cert and key come together; give both or none"},
		{"user in URL", strings.Replace(bridge, "mqtt://", "mqtt://u:pw@", 1), "gateway.yaml:6: bridges[0].url: no user in the URL; give it as username and password"},
		{"password in bad URL", strings.Replace(bridge, "mqtt://", "ftp://u:pw@", 1), `gateway.yaml:6: bridges[0].url: mqtt://host:port, mqtts://host:port, ws://host:port/path or wss://host:port/path, not "…@localhost"`},
		{"backoff", bridge + "    backoff: {min: 2m, max: 1m}\n", "gateway.yaml:8: bridges[0].backoff: min is longer than max"},
		{"same client", bridge + "  - name: b\n    url: mqtt://localhost\n    client_id: gh1-cloud\n    rules: [{direction: out, filter: a}]\n", "gateway.yaml:10: bridges[1].client_id: \"b\" connects to the same broker as bridges[0] on line 5"},
		{"filter", strings.Replace(bridge, "filter: a", "filter: a/b+/c", 1), "gateway.yaml:7: bridges[0].rules[0].filter: + shares a level of the topic filter [MQTT-4.7.1-2]; "},
		{"filter end", strings.Replace(bridge, "filter: a", "filter: \"a/#/c\"", 1), "gateway.yaml:7: bridges[0].rules[0].filter: # is not the last level of the topic filter [MQTT-4.7.1-1]; "},
		{"prefix", strings.Replace(bridge, "filter: a", "filter: a, remote_prefix: x", 1), `gateway.yaml:7: bridges[0].rules[0].remote_prefix: ends with /, as "x/"`},
		{"same rule", strings.Replace(bridge, "filter: a}", "filter: a}, {direction: out, filter: a}", 1), "gateway.yaml:7: bridges[0].rules[1]: says the same as bridges[0].rules[0] on line 7; remove one"},
		{"loop", strings.Replace(bridge, "filter: a}", "filter: \"a/#\"}, {direction: in, filter: a/+/set}", 1), "gateway.yaml:7: bridges[0].rules[1]: the cloud would send back what bridges[0].rules[0] on line 7 sends; give the two directions different remote topics, or set version: 5.0, or announce: true if the cloud is mosquitto"},
		{"both", strings.Replace(bridge, "direction: out", "direction: both", 1), "gateway.yaml:7: bridges[0].rules[0]: the cloud would send back"},
		{"loop of two", bridge + "  - name: b\n    url: mqtt://localhost\n    rules: [{direction: in, filter: \"#\"}]\n", "gateway.yaml:10: bridges[1].rules[0]: loops with bridges[0].rules[0] on line 7"},
		{"method of 3.1.1", bridge + "    username: u\n    password: p\n    method: SCRAM-SHA-256\n", "gateway.yaml:10: bridges[0].method: with version: \"5.0\" only; set it, or remove the method"},
		{"method without a user", bridge + "    version: 5.0\n    method: SCRAM-SHA-256\n", "gateway.yaml:9: bridges[0].method: needs a username and a password"},
		{"keep alive", bridge + "    keep_alive: 5500ms\n", "gateway.yaml:8: bridges[0].keep_alive: whole seconds, not 5.5s"},
		{"QoS", strings.Replace(bridge, "filter: a", "filter: a, qos: 3", 1), "gateway.yaml:7: bridges[0].rules[0].qos: from 0 to 2, not 3"},
		// Points.
		{"point twice", good + "inputs:\n  - {point: a, line: l1}\n  - {point: a, line: l2}\n", `gateway.yaml:6: inputs[1].point: "a" is already used by inputs[0].point on line 5; change one`},
		{"command topic taken", good + "inputs: [{point: a/set, line: l1}]\noutputs:\n  - {point: a, line: l2, safe: off}\n", `gateway.yaml:6: outputs[0].point: "a/set" is already used by inputs[0].point on line 4`},
		{"line twice", good + "inputs: [{point: a, line: GPIO17}]\noutputs:\n  - {point: b, line: GPIO17, safe: off}\n", `gateway.yaml:6: outputs[0].line: "GPIO17" is already used by inputs[0].line on line 4`},
		{"line number", good + "inputs: [{point: a, line: \"gpiochip0:x\"}]\n", "gateway.yaml:4: inputs[0].line: a line's name, as GPIO17, or chip:number"},
		{"dollar", good + "inputs: [{point: $SYS/x, line: l}]\n", "gateway.yaml:4: inputs[0].point: topics that begin with $ are the broker's own"},
		{"empty level", good + "inputs: [{point: a//b, line: l}]\n", "gateway.yaml:4: inputs[0].point: a topic without empty levels"},
		{"safe word", good + "outputs: [{point: a, line: l, on: open, off: closed, safe: off}]\n", `gateway.yaml:4: outputs[0].safe: "open" or "closed", the words of on and off, not "off"`},
		{"same words", good + "outputs: [{point: a, line: l, on: x, off: x, safe: x}]\n", "gateway.yaml:4: outputs[0].on: on and off must be different words"},
		{"words turned round", good + "outputs: [{point: a, line: l, on: off, off: dark, safe: dark}]\n", `gateway.yaml:4: outputs[0].on: "off" always means off; turn the level round with active_low`},
		{"lease", good + "outputs: [{point: a, line: l, safe: off, lease: 1m, min_on: 2m}]\n", "gateway.yaml:4: outputs[0].lease: shorter than min_on"},
		{"link loss", good + "outputs: [{point: a, line: l, safe: off, link_loss: {bridge: moon, after: 1m}}]\n", "gateway.yaml:4: outputs[0].link_loss.bridge: no bridge is called \"moon\"; name one"},
		{"interval", good + "inputs: [{point: a, line: l, heartbeat: 1s, min_interval: 2s}]\n", "gateway.yaml:4: inputs[0].min_interval: longer than heartbeat, 1s; shorten it"},
		{"sim section", good + "sim: {speed: 2}\n", "gateway.yaml:4: sim: only with board: sim"},
		// Serial.
		{"write of another's point", good + "inputs: [{point: w, line: l}]\nserial: [{port: /dev/x, writes: [{point: w, template: \"{value}\"}]}]\n", `gateway.yaml:5: serial[0].writes[0].point: "w" is already used by inputs[0].point on line 4`},
		{"lease without safe", good + "serial: [{port: /dev/x, writes: [{point: w, template: \"{value}\", lease: 1m}]}]\n", "gateway.yaml:4: serial[0].writes[0].lease: needs safe"},
		{"safe number", good + "serial: [{port: /dev/x, writes: [{point: w, template: \"{value}\", type: number, max: 5, safe: 6}]}]\n", "gateway.yaml:4: serial[0].writes[0].safe: outside of min and max"},
		{"words of a number", serial + "json\n        fields: [{field: t, point: a, on: x}]\n", "gateway.yaml:8: serial[0].frames[0].fields[0].on: only with type: bool"},
		{"port twice", serial + "json\n        fields: [{field: a, point: a}]\n  - port: /dev/ttyUSB0\n    writes: [{point: w, template: \"{value}\"}]\n", `gateway.yaml:9: serial[1].port: "/dev/ttyUSB0" is already used by serial[0].port on line 5`},
		{"port path", good + "serial: [{port: ttyUSB0, writes: [{point: w, template: \"{value}\"}]}]\n", "gateway.yaml:4: serial[0].port: a path, best below /dev/serial/by-id"},
		{"sim port", good + "board: sim\nserial: [{port: /dev/ttyUSB0, writes: [{point: w, template: \"{value}\"}]}]\n", "gateway.yaml:5: serial[0].port: board: sim has ports whose names begin with sim:"},
		{"baud", good + "serial: [{port: /dev/x, baud: 250000, writes: [{point: w, template: \"{value}\"}]}]\n", "gateway.yaml:4: serial[0].baud: 250000 is no speed of Linux"},
		{"template", good + "serial: [{port: /dev/x, writes: [{point: w, template: \"D\"}]}]\n", "gateway.yaml:4: serial[0].writes[0].template: without {value}"},
		{"idle port", good + "serial: [{port: /dev/x}]\n", "gateway.yaml:4: serial[0]: nothing to read or write; add frames or writes"},
		{"split column", serial + "split\n        fields: [{field: air, point: a}]\n", `gateway.yaml:8: serial[0].frames[0].fields[0].field: the number of the column, from 0, not "air"`},
		{"no pattern", serial + "regexp\n        fields: [{field: 1, point: a}]\n", "gateway.yaml:7: serial[0].frames[0].pattern: missing; format: regexp needs it"},
		{"bad pattern", serial + "regexp\n        pattern: \"T=(\"\n        fields: [{field: 1, point: a}]\n", "gateway.yaml:8: serial[0].frames[0].pattern: error parsing regexp: missing closing )"},
		{"no group", serial + "regexp\n        pattern: \"T=(.*)\"\n        fields: [{field: t, point: a}]\n", `gateway.yaml:9: serial[0].frames[0].fields[0].field: the pattern has no group "t"`},
		{"no field", serial + "json\n", "gateway.yaml:7: serial[0].frames[0].fields: no fields; add one"},
		{"separator", serial + "json\n        separator: \";\"\n        fields: [{field: t, point: a}]\n", "gateway.yaml:8: serial[0].frames[0].separator: only with format: split"},
		{"min above max", serial + "json\n        fields: [{field: t, point: a, min: 5, max: 1}]\n", "gateway.yaml:8: serial[0].frames[0].fields[0].min: larger than max"},
		{"no scale", serial + "json\n        fields: [{field: t, point: a, scale: 0}]\n", "gateway.yaml:8: serial[0].frames[0].fields[0].scale: 0 would make every value the same"},
		{"unit of a switch", serial + "json\n        fields: [{field: t, point: a, type: bool, unit: V}]\n", "gateway.yaml:8: serial[0].frames[0].fields[0].unit: only with type: number"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse("gateway.yaml", []byte(tt.src), environ)
			if err == nil {
				t.Fatalf("no problem, want %s", tt.want)
			}
			problems := err.(Problems)
			if len(problems) != 1 || !strings.Contains(problems[0].String(), tt.want) {
				t.Errorf("got\n%v\nwant one: %s", err, tt.want)
			}
		})
	}
}

func TestValuesAndDefaults(t *testing.T) {
	c, err := Parse("/etc/gateway/gateway.yaml", []byte(`
gateway: {id: gh1, data: state}
store: {max_size: 64MiB, telemetry_commit: 1m}
listeners:
  - {name: local, address: 127.0.0.1:1883, anonymous: true}
  - {name: web, address: unix:run/mqtt.sock, anonymous: true, protocols: [mqtt, websocket], versions: [3.1, "3.1.1", 5.0], socket: {mode: 0600, group: 12}}
bridges:
  - name: cloud
    url: mqtts://cloud.example
    username: u
    password: {env: CLOUD_PASSWORD}
    tls: {ca: /etc/ca.pem, cert: gh1.pem, key: gh1.key}
    rules:
      - {direction: out, filter: "greenhouse/#", remote_prefix: sites/gh1/}
outputs:
  - {point: vent, line: GPIO27, on: open, off: closed, safe: open, lease: 1d12h, link_loss: {bridge: cloud, after: 90s}}
serial:
  - port: /dev/ttyUSB0
    frames:
      - format: split
        fields:
          - {field: 0, point: air, min: -4e1, scale: 1e-1, retain: true}
`), environ)
	if err != nil {
		t.Fatal(err)
	}
	b, o, f := c.Bridges[0], c.Outputs[0], c.Serial[0].Frames[0]
	password, err := b.Password.Reveal()
	if err != nil {
		t.Error(err)
	}
	for _, tt := range []struct {
		what      string
		got, want any
	}{
		{"data", c.Gateway.Data, "/etc/gateway/state"},
		{"store", c.StorePath(), "/etc/gateway/state/store.db"},
		{"log", c.Gateway.Log, "info"},
		{"shared subscriptions", c.Gateway.SharedSubscriptions, "round_robin"},
		{"by sender", parse(t, strings.Replace(good, "gh1", "gh1, shared_subscriptions: sender", 1)).Gateway.SharedSubscriptions, "sender"},
		{"max size", c.Store.MaxSize, int64(64 << 20)},
		{"commit", c.Store.TelemetryCommit, time.Minute},
		{"packet size", c.Limits.PacketSize, int64(256 << 10)},
		{"plain TCP", c.Listeners[0].TLS, (*TLS)(nil)},
		{"MQTT only", strings.Join(c.Listeners[0].Protocols, " "), "mqtt"},
		{"all versions", len(c.Listeners[0].Versions), 0},
		{"path", c.Listeners[0].WebSocket.Path, "/mqtt"},
		{"socket", c.Listeners[1].Address, "unix:/etc/gateway/run/mqtt.sock"},
		{"socket's mode", c.Listeners[1].Socket.FileMode(), fs.FileMode(0o600)},
		{"socket's group", c.Listeners[1].Socket.Group, "12"},
		{"protocols", strings.Join(c.Listeners[1].Protocols, " "), "mqtt websocket"},
		{"versions", strings.Join(c.Listeners[1].Versions, " "), "3.1 3.1.1 5.0"},
		{"client id", b.ClientID, "gh1-cloud"},
		{"state topic", b.StateTopic, "gateway/gh1-cloud/state"},
		{"password", password, "s3cret"},
		{"CA", b.TLS.CA, "/etc/ca.pem"},
		{"certificate", b.TLS.Cert, "/etc/gateway/gh1.pem"},
		{"backoff", b.Backoff, Backoff{time.Second, time.Minute}},
		{"QoS", b.Rules[0].QoS, 1},
		{"days", o.Lease, 36 * time.Hour},
		{"safe", o.SafeOn(), true},
		{"link loss", *o.LinkLoss, LinkLoss{"cloud", 90 * time.Second}},
		{"delimiter", c.Serial[0].Delimiter, "\n"},
		{"separator", f.Separator, ","},
		{"column", f.Fields[0].Field, "0"},
		{"min", *f.Fields[0].Min, -40.0},
		{"max", f.Fields[0].Max, (*float64)(nil)},
		{"scale", f.Fields[0].Scale, 0.1},
		{"report", f.Fields[0].Report, Report{Heartbeat: time.Minute, Payload: "json", Retain: true}},
	} {
		if !reflect.DeepEqual(tt.got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.what, tt.got, tt.want)
		}
	}
}

func TestLongLinesAreNotDeep(t *testing.T) {
	var inputs strings.Builder
	for i := range 100 {
		fmt.Fprintf(&inputs, "{point: p%d, line: l%[1]d}, ", i)
	}
	c := parse(t, good+"inputs: ["+inputs.String()+"]\n")
	if len(c.Inputs) != 100 {
		t.Errorf("%d inputs, want 100", len(c.Inputs))
	}
}

// A device that tells the state of its own output has one point for both.
func TestWriteMayShareItsFieldsPoint(t *testing.T) {
	parse(t, good+"serial: [{port: /dev/x, frames: [{format: json, fields: [{field: a, point: p}]}], writes: [{point: p, template: \"{value}\"}]}]\n")
}

func TestWarnings(t *testing.T) {
	c := parse(t, strings.Replace(good, "127.0.0.1", "", 1)+`bridges:
  - name: cloud
    url: mqtt://cloud.example
    username: u
    password: x
    rules: [{direction: out, filter: a}]
`)
	want := "gateway.yaml:3: listeners[0].anonymous: whoever reaches :1883 may read and switch everything; better listen on 127.0.0.1, or use tls with require_certificate\n" +
		"gateway.yaml:8: bridges[0].password: crosses the network in the clear with mqtt://; use mqtts://"
	if got := c.Warnings.Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Whoever can log in without the method needs no second factor: that is said.
func TestSecondFactorWarning(t *testing.T) {
	const tls = "tls: {cert: c, key: k, client_ca: a%s}"
	for _, tt := range []struct {
		listener string
		warned   bool
	}{
		{fmt.Sprintf(tls, ""), false},
		{fmt.Sprintf(tls, ", require_certificate: true"), true},
		{fmt.Sprintf(tls, "") + ", auth: passwords", true},
		{fmt.Sprintf(tls, "") + ", anonymous: true", true},
	} {
		c := parse(t, "listeners: [{name: d, address: ':8883', methods: [PASSWORD-TOTP], "+tt.listener+"}]\nauth: {password_file: p, totp_file: t}\n")
		if got := strings.Contains(c.Warnings.Error(), "leaves the second factor out"); got != tt.warned {
			t.Errorf("%s: %v", tt.listener, c.Warnings)
		}
	}
}

func TestSecretsHide(t *testing.T) {
	c := parse(t, good+"bridges: [{name: a, url: mqtt://localhost, username: u, password: s3cret, rules: [{direction: out, filter: a}]}]\n")
	b := c.Bridges[0]
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("bridge", "password", b.Password, "bridge", b)
	for _, out := range []string{fmt.Sprint(b), fmt.Sprintf("%+v %#v %x %q", b, b, b.Password, &b.Password), log.String()} {
		if strings.Contains(out, "s3cret") || strings.Contains(out, fmt.Sprintf("%x", "s3cret")) {
			t.Errorf("the secret shows itself: %s", out)
		}
	}
}

func TestSecretFromFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	src := good + "bridges: [{name: a, url: mqtt://localhost, username: u, password: {file: " + file + "}, rules: [{direction: out, filter: a}]}]\n"
	s := parse(t, src).Bridges[0].Password
	if _, err := s.Reveal(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("file missing: %v", err)
	}
	if err := os.WriteFile(file, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Reveal(); err != nil || got != "s3cret" {
		t.Errorf("got %q, %v; want the text without the newline", got, err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Reveal(); err == nil || !strings.Contains(err.Error(), "run: chmod 640 "+file) {
		t.Errorf("file for everyone: %v, want the command that mends it", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("a: [\n"))
	f.Add([]byte("gateway: {id: *x}\ninputs:\n- ? a\n  : b\n"))
	f.Add([]byte("outputs:\n - {point: a, line: b, safe: on, link_loss: {bridge: a, after: 1d}}\nserial: [{port: |\n  a\n}]"))
	f.Fuzz(func(t *testing.T, src []byte) {
		c, err := Parse("gateway.yaml", src, environ)
		if (c == nil) == (err == nil) {
			t.Fatalf("configuration %v and error %v", c, err)
		}
		var problems Problems
		if err != nil && (!errors.As(err, &problems) || len(problems) == 0) {
			t.Fatalf("error %v is no list of problems", err)
		}
		for _, p := range problems {
			if strings.ContainsAny(p.String(), "\n\x1b") {
				t.Fatalf("problem of more than one line: %q", p)
			}
		}
	})
}
