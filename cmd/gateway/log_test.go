package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// A line of the log has a bounded length, whatever name a stranger has made up, and says what short ones say.
func TestLogIsBounded(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "")
	name := strings.Repeat("ä\x01", 20_000)
	var out bytes.Buffer
	newLog(&out, "info").Warn("not authorized", "user", name, "reason", errors.New("no user "+name), "from", "192.0.2.1:5")
	if n := out.Len(); n > 12<<10 || n < mostLogged {
		t.Errorf("the line has %d bytes", n)
	}
	for _, want := range []string{"time=", "user=", "no user ä", "…", "from=192.0.2.1:5"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the line has no %q", want)
		}
	}
	out.Reset()
	t.Setenv("JOURNAL_STREAM", "8:1")
	newLog(&out, "info").Warn("not authorized", "user", "anna", "reason", errors.New("wrong password"))
	if got := out.String(); got != "level=WARN msg=\"not authorized\" user=anna reason=\"wrong password\"\n" {
		t.Errorf("the line is %s", got)
	}
}
