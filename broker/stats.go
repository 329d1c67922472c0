package broker

import (
	"strconv"
	"sync/atomic"
	"time"

	"gateway/broker/auth"
	"gateway/broker/packet"
)

// Stats are counters since the server began.
type Stats struct {
	Connects           atomic.Int64 // clients that were let in
	Refused            atomic.Int64 // connections that were not
	Banned             atomic.Int64 // connections turned away because of a ban
	HeldOff            atomic.Int64 // connections turned away because there were too many attempts before
	BadLogin           atomic.Int64 // clients refused for what they showed
	Received           atomic.Int64 // messages from publishers
	Sent               atomic.Int64 // messages to subscribers, repetitions included
	Dropped            atomic.Int64 // messages for one client that there was no room for, that its session ended before, or that it might not publish
	Expired            atomic.Int64 // messages for one client whose expiry interval passed
	TooLarge           atomic.Int64 // messages larger than their receiver takes
	Slowed             atomic.Int64 // times that a client was slowed down for publishing too much
	Memory, MostMemory atomic.Int64 // bytes in use when the collector ran last, and at most
	Relieved           atomic.Int64 // clients that were disconnected for want of memory
	Turns              atomic.Int64 // times that busy clients let the others through
	Unstored           atomic.Int64 // messages and subscriptions that the store refused
}

// Stats returns the server's counters.
func (s *Server) Stats() *Stats { return &s.stats }

// statsPeriod is how often the statistics are published.
const statsPeriod = 10 * time.Second

// denialPeriod is the least time between two messages about what a client may not do.
const denialPeriod = time.Second

// A reporter publishes the statistics below $SYS/broker, until the server closes.
type reporter struct {
	srv  *Server
	last map[string]string // as published
}

func (r *reporter) run() {
	tick := time.NewTicker(statsPeriod)
	defer tick.Stop()
	news, pause := r.srv.denials.news, (<-chan time.Time)(nil)
	for {
		select {
		case <-news:
			r.publish("$SYS/broker/last_denied", r.srv.denials.text())
			news, pause = nil, time.After(denialPeriod)
		case <-pause:
			news, pause = r.srv.denials.news, nil
		case <-tick.C:
			r.srv.registry.trim()
			r.report()
		case <-r.srv.ctx.Done():
			return
		}
	}
}

// report publishes what has changed.
func (r *reporter) report() {
	for topic, value := range r.values() {
		if r.last[topic] != value {
			r.last[topic] = value
			r.publish(topic, value)
		}
	}
	for topic, value := range r.srv.losses.reports() {
		r.publish(topic, value)
	}
}

// values returns what there is to tell, by topic.
func (r *reporter) values() map[string]string {
	s := r.srv
	total, connected := s.registry.count()
	subs, retained := s.routes.count()
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	return map[string]string{
		"$SYS/broker/version":                    s.version,
		"$SYS/broker/uptime":                     number(int64(time.Since(s.began)/time.Second)) + " seconds",
		"$SYS/broker/clients/connected":          number(int64(connected)),
		"$SYS/broker/clients/disconnected":       number(int64(total - connected)),
		"$SYS/broker/clients/total":              number(int64(total)),
		"$SYS/broker/clients/refused":            number(s.stats.Refused.Load()),
		"$SYS/broker/clients/banned":             number(s.stats.Banned.Load()),
		"$SYS/broker/clients/held_off":           number(s.stats.HeldOff.Load()),
		"$SYS/broker/clients/bad_logins":         number(s.stats.BadLogin.Load()),
		"$SYS/broker/messages/received":          number(s.stats.Received.Load()),
		"$SYS/broker/messages/sent":              number(s.stats.Sent.Load()),
		"$SYS/broker/publish/messages/dropped":   number(s.stats.Dropped.Load()),
		"$SYS/broker/publish/messages/expired":   number(s.stats.Expired.Load()),
		"$SYS/broker/publish/messages/too_large": number(s.stats.TooLarge.Load()),
		"$SYS/broker/clients/slowed":             number(s.stats.Slowed.Load()),
		"$SYS/broker/denied/publish":             number(s.denials.count[auth.Publish].Load()),
		"$SYS/broker/denied/subscribe":           number(s.denials.count[auth.Subscribe].Load()),
		"$SYS/broker/denied/receive":             number(s.denials.count[auth.Receive].Load()),
		"$SYS/broker/store/refused":              number(s.stats.Unstored.Load()),
		"$SYS/broker/subscriptions/count":        number(int64(subs)),
		"$SYS/broker/retained messages/count":    number(int64(retained)),
	}
}

// publish publishes a retained message of the gateway itself.
func (r *reporter) publish(topic, value string) {
	p := packet.Publish{Topic: topic, Payload: []byte(value), Retain: true}
	m := newRouting(nil, nil)
	m.begin(&p)
	r.srv.publish(m, nil)
}
