package config

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// A checker finds what no single value shows: doubles, collisions, impossible combinations.
type checker struct {
	places
	problems, warnings Problems
}

// want notes a problem at key unless ok.
func (k *checker) want(ok bool, key, format string, args ...any) {
	if !ok {
		k.problems = append(k.problems, k.problem(key, format, args...))
	}
}

func (k *checker) warn(key, format string, args ...any) {
	k.warnings = append(k.warnings, k.problem(key, format, args...))
}

// given tells whether the file itself has the key.
func (k *checker) given(key string) bool {
	_, ok := k.lines[key]
	return ok
}

// once wants value to be new in seen, which maps values to their keys.
func (k *checker) once(seen map[string]string, value, key string) {
	if value == "" {
		return
	}
	first, double := seen[value]
	k.want(!double, key, "%s is already used by %s on line %d; change one", quoteShort(value), first, k.line(first))
	if !double {
		seen[value] = key
	}
}

func (k *checker) config(c *Config) {
	k.want(len(k.problems)+len(c.Listeners)+len(c.Bridges)+len(c.Inputs)+len(c.Outputs)+len(c.Serial) > 0, "",
		"nothing to do; give listeners, inputs, outputs, serial or bridges")
	if p := nameProblem(c.Gateway.ID); p != "" {
		k.want(false, "gateway.id", "%s", p)
	}
	k.want(c.Board == "sim" || !k.given("sim"), "sim", "only with board: sim; remove it, or set board: sim")
	k.want(c.Store.TelemetryCommit == 0 || c.Store.TelemetryCommit >= time.Millisecond, "store.telemetry_commit",
		"0s, or at least 1ms")
	k.want(c.Limits.KeepAlive%time.Second == 0, "limits.keep_alive", "whole seconds, not %v", c.Limits.KeepAlive)
	k.want(c.Limits.SessionExpiry%time.Second == 0, "limits.session_expiry", "whole seconds, not %v", c.Limits.SessionExpiry)
	k.queue(c.Store.Queue, c, "store.queue")
	n := network{k}
	logins{k}.access(c)
	n.listeners(c)
	checkHTTPAuth(n, c)
	n.bridges(c)
	p := points{k, make(map[string]string), make(map[string]string)}
	p.all(c)
}

// nameProblem tells why s cannot be a name that becomes part of topics and client identifiers.
func nameProblem(s string) string {
	if s == "" || len(s) > 128 || strings.ContainsFunc(s, func(r rune) bool { return strings.ContainsRune("+#/", r) || !unicode.IsPrint(r) }) {
		return fmt.Sprintf("1 to 128 printable characters without + # and /, as it becomes part of topics, not %s", quoteShort(s))
	}
	return ""
}
