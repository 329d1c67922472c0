package broker

import (
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// Loads are averages of how much a counter grows in a minute, over the last 1, 5 and 15 minutes,
// as Mosquitto has them: what is older counts less and less.
type loads map[string]*load

type load struct {
	last     int64
	averages [3]float64 // per minute
}

// spans are what the averages are over, with the ends of their topics.
var spans = [3]struct {
	name    string
	minutes float64
}{{"1min", 1}, {"5min", 5}, {"15min", 15}}

// add takes the counters after a time, and adds the averages to values.
func (l *loads) add(values map[string]string, s *Stats, after time.Duration) {
	if *l == nil {
		*l = make(loads)
	}
	for name, n := range map[string]*atomic.Int64{
		"load/messages/received": &s.PacketsReceived,
		"load/messages/sent":     &s.PacketsSent,
		"load/publish/received":  &s.Received,
		"load/publish/sent":      &s.Sent,
		"load/publish/dropped":   &s.Dropped,
		"load/bytes/received":    &s.BytesReceived,
		"load/bytes/sent":        &s.BytesSent,
		"load/sockets":           &s.Sockets,
		"load/connections":       &s.Introduced,
	} {
		one := (*l)[name]
		if one == nil {
			one = new(load)
			(*l)[name] = one
		}
		one.take(n.Load(), after)
		for i, span := range spans {
			values[name+"/"+span.name] = fmt.Sprintf("%.2f", one.averages[i])
		}
	}
}

// take adds what has been counted since the last time.
func (l *load) take(n int64, after time.Duration) {
	rate := float64(n-l.last) / after.Minutes()
	l.last = n
	for i, span := range spans {
		l.averages[i] = rate + math.Exp(-after.Minutes()/span.minutes)*(l.averages[i]-rate)
	}
}
