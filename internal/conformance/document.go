package conformance

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

const preface = `# Conformance

Made by ` + "`go generate ./internal/conformance`" + ` from the lists in that folder; a test fails when it is out of date.

Each normative statement of the MQTT standards, in our words, with the tests that prove it. A test of
` + "`internal/conformance`" + ` is a client that speaks to a broker packet by packet, and can be run against any:

` + "```sh" + `
go test ./internal/conformance                                       # the gateway's broker
go test ./internal/conformance -args -target mosquitto               # a mosquitto that is started for it
go test ./internal/conformance -args -target mqtt://192.0.2.1:1883   # any other
` + "```" + `

Other tests have their folder before their name. Where only a reason stands, no test of a server can
prove the statement. Tests of both versions run with MQTT 3.1 too, unless it
differs in what they are about; its own rules are in ` + "`TestVersion31Connect`, `TestVersion31Bits` and `TestVersion31Disconnect`" + `.
`

// Document returns the statements and the differences of mosquitto as a page in Markdown.
func Document() (string, error) {
	standards, err := Standards()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(preface)
	for _, s := range standards {
		fmt.Fprintf(&b, "\n## MQTT %s\n\n%s\n", s.Version, summary(s))
		for _, c := range s.Chapters {
			fmt.Fprintf(&b, "\n### %s\n\n| statement | what it says | proven by |\n|---|---|---|\n", c.Title)
			for _, st := range c.Statements {
				fmt.Fprintf(&b, "| %s | %s | %s |\n", st.ID, st.What, st.proof())
			}
		}
	}
	b.WriteString("\n## Where mosquitto 2.0.11 differs\n\nThe suite runs against Debian's mosquitto too. In these tests it does otherwise:\n\n| test | what it does |\n|---|---|\n")
	for _, test := range slices.Sorted(maps.Keys(differs)) {
		fmt.Fprintf(&b, "| `%s` | %s |\n", test, differs[test])
	}
	return b.String(), nil
}

// summary counts the statements of a standard.
func summary(s Standard) string {
	var all, tested int
	for _, c := range s.Chapters {
		for _, st := range c.Statements {
			all++
			if len(st.Tests) > 0 {
				tested++
			}
		}
	}
	return fmt.Sprintf("%d statements: %d proven by tests, %d with a reason only.", all, tested, all-tested)
}

// proof returns the last column of a statement.
func (st Statement) proof() string {
	var parts []string
	for _, test := range st.Tests {
		parts = append(parts, "`"+test+"`")
	}
	text := strings.Join(parts, ", ")
	if text != "" && st.Why != "" {
		text += "; "
	}
	return text + st.Why
}
