package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gateway/internal/ca"
)

// A certificate is warned of 30, 7 and 1 days before its end, and at its end, once each.
func TestExpiryWarnings(t *testing.T) {
	dir := t.TempDir()
	a, err := ca.Init(filepath.Join(dir, "ca"), "CA", ca.AuthorityLife)
	if err != nil {
		t.Fatal(err)
	}
	f, err := a.Server([]string{"localhost"}, 60*dayLength)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "bad.crt")
	if err := os.WriteFile(bad, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	real := time.Now()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		begin := time.Now()
		now := func() time.Time { return real.Add(time.Since(begin)) }
		files := map[string]string{"cert": f.Cert, "ca": bad}
		var told []string
		done := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer close(done)
			watchCertificates(ctx, files, now, slog.New(slog.NewTextHandler(&log, nil)), func(topic string, text []byte) {
				told = append(told, topic+" "+string(text))
			})
		}()
		time.Sleep(61*dayLength - time.Minute)
		cancel()
		<-done
		var days []string
		for l := range strings.Lines(log.String()) {
			_, rest, _ := strings.Cut(l, " days=")
			days = append(days, strings.Fields(rest)[0])
		}
		if got := strings.Join(days, " "); got != "29 6 0 -1" {
			t.Errorf("warned with so many days left: %s\n%s", got, log.String())
		}
		if len(told) != 61 || !strings.HasPrefix(told[0], "cert {") || !strings.Contains(told[0], `"days":59,"state":"in force"`) || !strings.Contains(told[60], `"days":-1,"state":"expired"`) {
			t.Errorf("told %d times: %s … %s", len(told), told[0], told[len(told)-1])
		}
	})
}
