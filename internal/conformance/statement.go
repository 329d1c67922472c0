// Package conformance lists the normative statements of MQTT 3.1.1 and 5.0, each with the tests
// that prove it, or with the reason why no test of a server can. Its tests are the suite: they
// speak to a broker packet by packet, to the gateway's own as well as to any other:
//
//	go test ./internal/conformance -args -target mqtt://host:1883
//	go test ./internal/conformance -args -target mosquitto
//
// The lists are the files mqtt-3.1.1.txt and mqtt-5.0.txt, with one statement to a line:
//
//	id | what it says, in a few words | tests | reason
//
// A test of another package has its folder before it, as in broker/packet.TestText. At least one
// of tests and reason is there. A line that begins with ## is the title of a chapter.
package conformance

import (
	_ "embed"
	"fmt"
	"strings"
)

//go:generate go test -run TestDocument . -args -update

//go:embed mqtt-3.1.1.txt
var text311 string

//go:embed mqtt-5.0.txt
var text50 string

// A Standard is one version of MQTT.
type Standard struct {
	Version  string // "3.1.1"
	Chapters []Chapter
}

// A Chapter is a chapter of a standard that has normative statements.
type Chapter struct {
	Title      string
	Statements []Statement
}

// A Statement is one normative statement.
type Statement struct {
	ID    string   // as the standard has it, without brackets: "MQTT-3.1.0-1"
	What  string   // what it says, in our words
	Tests []string // that prove it
	Why   string   // no test does, or not all of it
}

// Standards returns the standards, the oldest first.
func Standards() ([]Standard, error) {
	var all []Standard
	for _, list := range []struct{ version, text string }{{"3.1.1", text311}, {"5.0", text50}} {
		s, err := parse(list.version, list.text)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// parse reads the list of a standard.
func parse(version, text string) (Standard, error) {
	s := Standard{Version: version}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		title, isTitle := strings.CutPrefix(line, "## ")
		switch {
		case isTitle:
			s.Chapters = append(s.Chapters, Chapter{Title: title})
		case line == "", strings.HasPrefix(line, "#"):
		default:
			st, err := parseStatement(line)
			if err != nil {
				return Standard{}, fmt.Errorf("mqtt-%s.txt:%d: %w", version, number, err)
			}
			if len(s.Chapters) == 0 {
				return Standard{}, fmt.Errorf("mqtt-%s.txt:%d: %s stands before the first chapter", version, number, st.ID)
			}
			c := &s.Chapters[len(s.Chapters)-1]
			c.Statements = append(c.Statements, st)
		}
	}
	return s, nil
}

func parseStatement(line string) (Statement, error) {
	fields := strings.Split(line, "|")
	if len(fields) < 3 || len(fields) > 4 {
		return Statement{}, fmt.Errorf("%d columns, want 3 or 4", len(fields))
	}
	st := Statement{
		ID:    strings.TrimSpace(fields[0]),
		What:  strings.TrimSpace(fields[1]),
		Tests: strings.Fields(fields[2]),
	}
	if len(fields) == 4 {
		st.Why = strings.TrimSpace(fields[3])
	}
	if len(st.Tests) == 0 && st.Why == "" {
		return Statement{}, fmt.Errorf("%s has neither a test nor a reason why there is none", st.ID)
	}
	return st, nil
}
