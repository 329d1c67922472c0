package topic

import (
	"errors"
	"strings"
	"testing"
)

func TestValidName(t *testing.T) {
	for _, tt := range []struct {
		clause, name string
		ok           bool
	}{
		{"MQTT-4.7.3-1", "", false},
		{"MQTT-4.7.3-1", "/", true},
		{"MQTT-4.7.3-1", "/finance", true},
		{"4.7.3", "Accounts payable", true},
		{"4.7.3", "a//b", true},
		{"MQTT-4.7.2-1", "$SYS/broker/uptime", true},
		{"MQTT-4.7.0-1", "a/+", false},
		{"MQTT-4.7.0-1", "a#", false},
		{"MQTT-4.7.3-2", "a\x00", false},
		{"MQTT-1.5.4-1", "a\xff", false},
		{"MQTT-1.5.4-1", "a\xed\xa0\x80", false},
		{"MQTT-4.7.3-3", strings.Repeat("a", MaxLength), true},
		{"MQTT-4.7.3-3", strings.Repeat("a", MaxLength+1), false},
		{"4.7.3", strings.Repeat("/", MaxLevels-1), true},
		{"4.7.3", strings.Repeat("/", MaxLevels), false},
	} {
		checkClause(t, tt.clause, tt.name, tt.ok, ValidName(tt.name))
	}
}

func TestValidFilter(t *testing.T) {
	for _, tt := range []struct {
		clause, filter string
		ok             bool
	}{
		{"MQTT-4.7.3-1", "", false},
		{"MQTT-4.7.1-1", "#", true},
		{"MQTT-4.7.1-1", "sport/tennis/#", true},
		{"MQTT-4.7.1-1", "sport/tennis#", false},
		{"MQTT-4.7.1-1", "sport/tennis/#/ranking", false},
		{"MQTT-4.7.1-1", "#/", false},
		{"MQTT-4.7.1-1", "##", false},
		{"MQTT-4.7.1-2", "+", true},
		{"MQTT-4.7.1-2", "+/tennis/#", true},
		{"MQTT-4.7.1-2", "sport+", false},
		{"MQTT-4.7.1-2", "sport/+/player1", true},
		{"MQTT-4.7.1-2", "++", false},
		{"MQTT-4.7.3-2", "a\x00", false},
		{"MQTT-1.5.4-1", "\xff", false},
		{"MQTT-4.7.3-3", strings.Repeat("a", MaxLength+1), false},
		{"4.7.3", strings.Repeat("+/", MaxLevels) + "+", false},
		{"MQTT-4.8.2-1", "$share/g/a/#", true},
		{"MQTT-4.8.2-1", "$share//a", false},
		{"MQTT-4.8.2-1", "$share/", false},
		{"MQTT-4.8.2-2", "$share/+/a", false},
		{"MQTT-4.8.2-2", "$share/g#/a", false},
		{"MQTT-4.8.2-2", "$share/g", false},
		{"MQTT-4.8.2-2", "$share/g/", false},
		{"MQTT-4.8.2-2", "$share/g//", true},
		{"MQTT-4.7.1-1", "$share/g/a#", false},
		{"4.8.2", "$share", true}, // not a shared subscription
		{"4.8.2", "$shared/+/a", true},
	} {
		checkClause(t, tt.clause, tt.filter, tt.ok, ValidFilter(tt.filter))
	}
}

func checkClause(t *testing.T, clause, s string, ok bool, err error) {
	t.Helper()
	var refusal *Error
	switch {
	case ok && err != nil:
		t.Errorf("[%s] %.40q: refused: %v", clause, s, err)
	case !ok && !errors.As(err, &refusal):
		t.Errorf("[%s] %.40q: err = %v, want a refusal", clause, s, err)
	case !ok && refusal.Clause != clause:
		t.Errorf("[%s] %.40q: err = %v", clause, s, err)
	}
}

func TestParseShared(t *testing.T) {
	for _, tt := range []struct {
		clause, filter, group, rest string
		ok                          bool
	}{
		{"4.8.2", "$share/consumer1/sport/tennis/+", "consumer1", "sport/tennis/+", true},
		{"4.8.2", "$share/consumer2//finance", "consumer2", "/finance", true},
		{"4.8.2", "sport/#", "", "sport/#", false},
		{"4.8.2", "$share", "", "$share", false},
		{"4.8.2", "$shared/g/a", "", "$shared/g/a", false},
	} {
		group, rest, ok, err := ParseShared(tt.filter)
		if group != tt.group || rest != tt.rest || ok != tt.ok || err != nil {
			t.Errorf("[%s] %q: %q, %q, %t, %v, want %q, %q, %t", tt.clause, tt.filter, group, rest, ok, err, tt.group, tt.rest, tt.ok)
		}
	}
	if _, _, ok, err := ParseShared("$share//a"); ok || err == nil {
		t.Errorf("[MQTT-4.8.2-1] an empty share name: %t, %v, want an error", ok, err)
	} else if want := "shared subscription has an empty share name [MQTT-4.8.2-1]"; err.Error() != want {
		t.Errorf("[MQTT-4.8.2-1] error reads %q, want %q", err, want)
	}
}

// matches are the examples of the standard, and their neighbours.
var matches = []struct {
	clause, filter, name string
	want                 bool
}{
	{"4.7.1.2", "sport/tennis/player1/#", "sport/tennis/player1", true},
	{"4.7.1.2", "sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
	{"4.7.1.2", "sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
	{"4.7.1.2", "sport/tennis/player1/#", "sport/tennis/player10", false},
	{"4.7.1.2", "sport/#", "sport", true},
	{"4.7.1.2", "sport/#", "sport/", true},
	{"4.7.1.2", "sport/#", "sports", false},
	{"4.7.1.2", "#", "sport", true},
	{"4.7.1.2", "#", "/", true},
	{"4.7.1.2", "+/#", "sport", true},
	{"4.7.1.3", "sport/tennis/+", "sport/tennis/player1", true},
	{"4.7.1.3", "sport/tennis/+", "sport/tennis/player1/ranking", false},
	{"4.7.1.3", "sport/+", "sport", false},
	{"4.7.1.3", "sport/+", "sport/", true},
	{"4.7.1.3", "+/+", "/finance", true},
	{"4.7.1.3", "/+", "/finance", true},
	{"4.7.1.3", "+", "/finance", false},
	{"4.7.1.3", "+/tennis/#", "sport/tennis", true},
	{"4.7.1.3", "sport/+/player1", "sport/tennis/player1", true},
	{"4.7.1.3", "sport/+/player1", "sport/tennis/player2", false},
	{"4.7.1.3", "+/+/+", "//", true},
	{"MQTT-4.7.2-1", "#", "$SYS/monitor/Clients", false},
	{"MQTT-4.7.2-1", "+/monitor/Clients", "$SYS/monitor/Clients", false},
	{"MQTT-4.7.2-1", "+", "$SYS", false},
	{"MQTT-4.7.2-1", "+/#", "$SYS", false},
	{"MQTT-4.7.2-1", "$SYS/#", "$SYS/monitor/Clients", true},
	{"MQTT-4.7.2-1", "$SYS/#", "$SYS", true},
	{"MQTT-4.7.2-1", "$SYS/monitor/+", "$SYS/monitor/Clients", true},
	{"MQTT-4.7.2-1", "a/#", "a/$b", true},
	{"MQTT-4.7.2-1", "a/+", "a/$b", true},
	{"4.7.3", "ACCOUNTS", "Accounts", false},
	{"4.7.3", "Accounts payable", "Accounts payable", true},
	{"4.7.3", "finance", "/finance", false},
	{"4.7.3", "a", "a/", false},
	{"4.7.3", "a/", "a", false},
	{"MQTT-4.7.3-4", "A\u030A", "\u00C5", false}, // no normalisation
}

// The three ways to match agree with the standard.
func TestMatch(t *testing.T) {
	for _, tt := range matches {
		var tree Tree[int, int]
		tree.Set(tt.filter, 1, 1)
		inTree := false
		tree.Match(tt.name, func(filter string, _, _ int) { inTree = filter == tt.filter })

		var names Names[int]
		names.Set(tt.name, 1)
		inNames := false
		names.Match(tt.filter, func(name string, _ int) bool { inNames = name == tt.name; return true })

		if got := Match(tt.filter, tt.name); got != tt.want || inTree != tt.want || inNames != tt.want {
			t.Errorf("[%s] filter %q, name %q: Match %t, Tree %t, Names %t, want %t",
				tt.clause, tt.filter, tt.name, got, inTree, inNames, tt.want)
		}
	}
}

// plainMatch is the rule as clause 4.7 says it, level by level.
func plainMatch(filter, name string) bool {
	f, n := strings.Split(filter, "/"), strings.Split(name, "/")
	if strings.HasPrefix(name, "$") && (f[0] == "#" || f[0] == "+") {
		return false
	}
	if last := len(f) - 1; f[last] == "#" {
		if len(n) < last {
			return false
		}
		f, n = f[:last], n[:last]
	}
	if len(f) != len(n) {
		return false
	}
	for i := range f {
		if f[i] != "+" && f[i] != n[i] {
			return false
		}
	}
	return true
}

func FuzzMatch(f *testing.F) {
	for _, tt := range matches {
		f.Add(tt.filter, tt.name)
	}
	f.Fuzz(func(t *testing.T, filter, name string) {
		if ValidFilter(filter) != nil || ValidName(name) != nil {
			return // not a filter and a name: there is nothing to compare
		}
		if got, want := Match(filter, name), plainMatch(filter, name); got != want {
			t.Errorf("filter %q, name %q: %t, want %t", filter, name, got, want)
		}
	})
}
