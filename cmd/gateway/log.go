package main

import (
	"io"
	"log/slog"
	"os"
	"strings"
)

// newLog returns a log of one line an event. Under systemd the journal adds the time.
func newLog(w io.Writer, least string) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(least)) // the configuration knows the words
	journal := os.Getenv("JOURNAL_STREAM") != ""
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if journal && len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		a.Value = brief(a.Value)
		return a
	}}))
}

// mostLogged is how many bytes of a value the log has. Strangers give themselves names, of 64 KiB if they like,
// which errors repeat.
const mostLogged = 1 << 10

// brief shortens a text, or that of an error.
func brief(v slog.Value) slog.Value {
	text := ""
	switch v.Kind() {
	case slog.KindString:
		text = v.String()
	case slog.KindAny:
		if err, ok := v.Any().(error); ok {
			text = err.Error()
		}
	}
	if len(text) <= mostLogged {
		return v
	}
	return slog.StringValue(strings.ToValidUTF8(text[:mostLogged], "") + "…")
}
