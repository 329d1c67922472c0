package main

import (
	"encoding/json"
	"log/slog"
	"time"

	"gateway/offline"
)

// wearPeriod is how often the writes to the disk are counted and published.
const wearPeriod = time.Minute

// storeWrites is where they are published, retained.
const storeWrites = "$SYS/broker/store/writes"

// A wear follows what is written to the disk that the store is on.
type wear struct {
	budget    int64 // bytes a day, 0: none
	endurance int64 // bytes that the disk bears in its life, 0: not known
	log       *slog.Logger

	samples []wearSample // one for each hour of the last day, and the newest
	over    bool         // the budget is not kept
}

// A wearSample is what had been written at one time.
type wearSample struct {
	at                        time.Time
	process, device, messages int64 // bytes
}

// A wearReport is what is published. Of what cannot be counted the fields are missing.
type wearReport struct {
	Process       int64   `json:"process_bytes"`           // by the gateway, since it started
	Messages      int64   `json:"message_bytes"`           // of messages stored, since it started
	Amplification float64 `json:"amplification,omitempty"` // the one for a byte of the other
	ProcessDay    int64   `json:"process_bytes_per_day"`   // as of the last day, or since the start
	DeviceDay     int64   `json:"device_bytes_per_day"`    // by all programs, to the disk or partition
	Budget        int64   `json:"budget_bytes_per_day,omitempty"`
	Over          bool    `json:"over_budget"`
	LifeDays      int64   `json:"card_life_days,omitempty"` // of store.card_endurance, if it goes on like this
}

// sample counts what is written now.
func sample(v *vault) (s wearSample) {
	s.at = time.Now()
	s.process, _ = offline.ProcessWritten()
	s.device, _ = offline.DeviceWritten(v.path)
	if store, err := v.get(); err == nil {
		s.messages = store.Stats().Bytes
	}
	return s
}

// report takes a sample and returns what there is to tell.
func (w *wear) report(now wearSample) wearReport {
	n := len(w.samples)
	if n > 1 && now.at.Sub(w.samples[n-2].at) < time.Hour {
		w.samples[n-1] = now
	} else {
		w.samples = append(w.samples, now)
	}
	for len(w.samples) > 2 && now.at.Sub(w.samples[1].at) >= 24*time.Hour {
		w.samples = w.samples[1:]
	}
	first := w.samples[0]
	r := wearReport{Process: now.process, Messages: now.messages, Budget: w.budget}
	if now.messages > 0 {
		r.Amplification = float64(now.process) / float64(now.messages)
	}
	span := now.at.Sub(first.at)
	if span < wearPeriod {
		return r // too little for a day
	}
	day := func(bytes int64) int64 { return int64(float64(bytes) * float64(24*time.Hour) / float64(span)) }
	r.ProcessDay, r.DeviceDay = day(now.process-first.process), day(now.device-first.device)
	if most := max(r.DeviceDay, r.ProcessDay); w.endurance > 0 && most > 0 {
		r.LifeDays = w.endurance / most
	}
	r.Over = w.budget > 0 && r.ProcessDay > w.budget
	w.alarm(r)
	return r
}

// alarm writes one line when the budget is no longer kept, and one when it is again.
func (w *wear) alarm(r wearReport) {
	switch {
	case r.Over == w.over:
	case r.Over:
		w.log.Warn("the gateway writes more to the disk than store.write_budget allows", "bytes_per_day", r.ProcessDay, "budget", w.budget,
			"remedy", "publish less at QoS 1 and 2 and retained, set store.commit_delay, or raise store.telemetry_commit")
	default:
		w.log.Info("the gateway writes no more to the disk than store.write_budget allows", "bytes_per_day", r.ProcessDay)
	}
	w.over = r.Over
}

// text returns the next report as it is published.
func (w *wear) text(v *vault) []byte {
	text, _ := json.Marshal(w.report(sample(v))) // it is made of numbers only
	return text
}
