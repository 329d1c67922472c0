package broker

import (
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"gateway/broker/session"
)

// Losses are the books of what quotas have dropped. They are as durable as the store's own, from
// which they begin anew after a restart, and are published, retained, with the statistics.
type losses struct {
	stats *Stats
	log   *slog.Logger

	mu       sync.Mutex
	sessions map[string][]session.Dropped // by client, one for each rule and reason
	news     map[string]struct{}          // clients whose sums have not been published
	notice   notice
}

// add counts what was dropped.
func (l *losses) add(dropped ...session.Dropped) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sessions == nil {
		l.sessions, l.news = make(map[string][]session.Dropped), make(map[string]struct{})
	}
	for _, d := range dropped {
		l.news[d.Client] = struct{}{}
		sums := l.sessions[d.Client]
		i := slices.IndexFunc(sums, func(s session.Dropped) bool { return s.Rule == d.Rule && s.Reason == d.Reason })
		if i < 0 {
			l.sessions[d.Client] = append(sums, d)
		} else {
			sums[i].Add(d)
		}
	}
}

// lost counts what quotas have dropped now, and tells of it.
func (l *losses) lost(dropped []session.Dropped) {
	if len(dropped) == 0 {
		return
	}
	l.add(dropped...)
	for _, d := range dropped {
		l.stats.Dropped.Add(d.Messages)
	}
	if untold, due := l.notice.due(); due {
		d := dropped[0]
		l.log.Warn("messages for a client are dropped: its queue has reached its quota", "client", d.Client, "rule", d.Filter,
			"reason", d.Reason, "others_before", untold, "told", lossTopic(d.Client),
			"remedy", "let the client connect, or raise the quota of its queue")
	}
}

// forget ends the books of a session that has ended.
func (l *losses) forget(client string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, had := l.sessions[client]; had {
		delete(l.sessions, client)
		l.news[client] = struct{}{}
	}
}

// A lossReport is what is published about one session.
type lossReport struct {
	Client   string     `json:"client"`
	Messages int64      `json:"messages"` // since the session began
	Bytes    int64      `json:"bytes"`
	Parts    []lossPart `json:"parts"`
}

// A lossPart is about one rule and one reason. The positions number the messages of a session's
// queue from 1; of those in between some may have been delivered.
type lossPart struct {
	Rule     string    `json:"rule,omitempty"`
	Reason   string    `json:"reason"`
	Messages int64     `json:"messages"`
	Bytes    int64     `json:"bytes"`
	First    uint64    `json:"first"`
	Last     uint64    `json:"last"`
	Since    time.Time `json:"since"`
	Until    time.Time `json:"until"`
}

// reports returns by topic what has changed since it was asked last. It is empty for a session that
// has ended.
func (l *losses) reports() map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	reports := make(map[string]string)
	for _, client := range slices.Sorted(maps.Keys(l.news)) {
		reports[lossTopic(client)] = ""
		if sums := l.sessions[client]; sums != nil {
			r := lossReport{Client: client}
			for _, d := range sums {
				r.Messages += d.Messages
				r.Bytes += d.Bytes
				r.Parts = append(r.Parts, lossPart{d.Filter, d.Reason.String(), d.Messages, d.Bytes,
					d.First, d.Last, d.Since.UTC(), d.Until.UTC()})
			}
			text, _ := json.Marshal(r) // it is made of texts, numbers and times only
			reports[lossTopic(client)] = string(text)
		}
	}
	clear(l.news)
	return reports
}

// lossTopic is where a session's losses are published. A client identifier may have characters that
// a topic name must not have.
func lossTopic(client string) string {
	return "$SYS/broker/dropped/" + strings.NewReplacer("%", "%25", "+", "%2B", "#", "%23").Replace(client)
}
