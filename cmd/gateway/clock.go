package main

import (
	"context"
	"runtime/debug"
	"slices"
	"time"

	"gateway/broker/packet"
	"gateway/broker/session"
	"gateway/sensors"
)

// built is when the source of this program was committed, zero if it does not know: no gateway
// runs before that.
func built() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	i := slices.IndexFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "vcs.time" })
	if i < 0 {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339, info.Settings[i].Value)
	if err != nil {
		return time.Time{}
	}
	return at
}

// clockEvery is how often an unset clock is looked at.
const clockEvery = time.Second

// awaitClock tells when the time of day is not known, and when it is, until ctx ends.
func (g *gateway) awaitClock(ctx context.Context) {
	day, known := g.clock.Date(time.Now())
	if known {
		return
	}
	g.log.Warn("the clock is not set: readings are marked uncertain until it is, and get their times then", "clock", time.Now().UTC(), "not_before", day.UTC())
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for !known {
		select {
		case <-tick.C:
			_, known = g.clock.Date(time.Now())
		case <-ctx.Done():
			return
		}
	}
	g.log.Info("the clock is set", "clock", time.Now().UTC())
}

// redate returns what gives the readings on their way to a cloud the times that were not known when
// they were taken.
func (g *gateway) redate() func(*packet.Publish, *session.Message) {
	own := g.points.topics()
	return func(p *packet.Publish, m *session.Message) {
		if m.Undated || !own[m.Publish.Topic] {
			return
		}
		if taken, known := g.clock.Date(m.At); known {
			p.Payload = sensors.Redate(p.Payload, taken.Add(-m.Waited))
		}
	}
}
