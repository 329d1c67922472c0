package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// TestWear: bytes a day, the life of the card and the alarm of the budget, over two days of which the
// second is quieter.
func TestWear(t *testing.T) {
	var log bytes.Buffer
	w := &wear{budget: 1e9, endurance: 20e12, log: slog.New(slog.NewTextHandler(&log, nil))}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	s := wearSample{at: at, process: 5e6, device: 7e9, messages: 1e6}
	if r := w.report(s); r.ProcessDay != 0 || r.Over || r.Amplification != 5 {
		t.Errorf("at once: %+v", r)
	}
	minutes := func(n int, process, device int64) (r wearReport) {
		for range n {
			s.at, s.process, s.device = s.at.Add(time.Minute), s.process+process, s.device+device
			r = w.report(s)
		}
		return r
	}
	if r := minutes(60, 2e6, 4e6); r.ProcessDay != 2880e6 || r.DeviceDay != 5760e6 || !r.Over || r.LifeDays != 3472 {
		t.Errorf("after an hour: %+v", r)
	}
	if r := minutes(48*60, 1e5, 1e5); r.ProcessDay != 144e6 || r.Over {
		t.Errorf("after two quiet days: %+v", r)
	}
	if len(w.samples) > 26 {
		t.Errorf("%d samples", len(w.samples))
	}
	if n := strings.Count(log.String(), "\n"); n != 2 {
		t.Errorf("log: %s", &log)
	}
}
