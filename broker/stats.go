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
	Sockets            atomic.Int64 // connections that were accepted
	Introduced         atomic.Int64 // of them those with a CONNECT
	Connects           atomic.Int64 // clients that were let in
	Outlived           atomic.Int64 // sessions that expired
	Refused            atomic.Int64 // connections that were not
	Banned             atomic.Int64 // connections turned away because of a ban
	HeldOff            atomic.Int64 // connections turned away because there were too many attempts before
	BadLogin           atomic.Int64 // clients refused for what they showed
	Taken              atomic.Int64 // clients refused because their identifier is another user's
	PacketsReceived    atomic.Int64 // MQTT packets from network clients, and the bytes of them
	BytesReceived      atomic.Int64
	PacketsSent        atomic.Int64 // and to them
	BytesSent          atomic.Int64
	PayloadReceived    atomic.Int64 // bytes of the messages in Received
	PayloadSent        atomic.Int64 // and in Sent
	Received           atomic.Int64 // messages from publishers
	Sent               atomic.Int64 // messages to subscribers, repetitions included
	Dropped            atomic.Int64 // messages for one client that there was no room for, that its session ended before, or that it might not publish
	Expired            atomic.Int64 // messages for one client whose expiry interval passed
	TooLarge           atomic.Int64 // messages larger than their receiver takes
	Slowed             atomic.Int64 // times that a client was slowed down for publishing or asking for too much
	Memory, MostMemory atomic.Int64 // bytes in use when the collector ran last, and at most
	Relieved           atomic.Int64 // clients that were disconnected for want of memory
	Turns              atomic.Int64 // times that busy clients let the others through
	Unstored           atomic.Int64 // messages and subscriptions that the store refused
	Limits             Refusals     // what was refused for a limit
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
	last map[string]string // as published, by the end of the topic
	loads
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
			trimAll(r.srv)
			r.report()
		case <-r.srv.ctx.Done():
			return
		}
	}
}

// report publishes what has changed.
func (r *reporter) report() {
	for name, value := range r.values() {
		if r.last[name] != value {
			r.last[name] = value
			r.publish("$SYS/broker/"+name, value)
		}
	}
	for topic, value := range r.srv.losses.reports() {
		r.publish(topic, value)
	}
}

// values returns what there is to tell, by topic. Most names are Mosquitto's, as dashboards know
// them.
func (r *reporter) values() map[string]string {
	s := r.srv
	values := map[string]string{
		"version": s.version,
		"uptime":  strconv.FormatInt(int64(time.Since(s.began)/time.Second), 10) + " seconds",
	}
	for name, n := range r.gauges() {
		values[name] = strconv.FormatInt(n, 10)
	}
	for name, n := range r.counters() {
		values[name] = strconv.FormatInt(n.Load(), 10)
	}
	r.loads.add(values, &s.stats, statsPeriod)
	return values
}

// gauges returns what there is now, by the end of its topic.
func (r *reporter) gauges() map[string]int64 {
	s := r.srv
	total, connected, waiting, waitingBytes := s.registry.count()
	subs, shared, retained, retainedBytes := s.routes.count()
	return map[string]int64{
		"clients/connected":          int64(connected),
		"clients/active":             int64(connected),
		"clients/disconnected":       int64(total - connected),
		"clients/inactive":           int64(total - connected),
		"clients/total":              int64(total),
		"clients/maximum":            s.gate.peak(),
		"messages/stored":            int64(waiting + retained),
		"store/messages/count":       int64(waiting + retained),
		"store/messages/bytes":       int64(waitingBytes + retainedBytes),
		"subscriptions/count":        int64(subs),
		"shared_subscriptions/count": int64(shared),
		"retained messages/count":    int64(retained),
	}
}

// counters returns what is counted, by the end of its topic.
func (r *reporter) counters() map[string]*atomic.Int64 {
	s, c := r.srv, &r.srv.stats
	counters := map[string]*atomic.Int64{
		"clients/expired":            &c.Outlived,
		"clients/refused":            &c.Refused,
		"clients/banned":             &c.Banned,
		"clients/held_off":           &c.HeldOff,
		"clients/bad_logins":         &c.BadLogin,
		"clients/taken":              &c.Taken,
		"clients/slowed":             &c.Slowed,
		"clients/relieved":           &c.Relieved,
		"messages/received":          &c.PacketsReceived,
		"messages/sent":              &c.PacketsSent,
		"bytes/received":             &c.BytesReceived,
		"bytes/sent":                 &c.BytesSent,
		"publish/messages/received":  &c.Received,
		"publish/messages/sent":      &c.Sent,
		"publish/bytes/received":     &c.PayloadReceived,
		"publish/bytes/sent":         &c.PayloadSent,
		"publish/messages/dropped":   &c.Dropped,
		"publish/messages/expired":   &c.Expired,
		"publish/messages/too_large": &c.TooLarge,
		"denied/publish":             &s.denials.count[auth.Publish],
		"denied/subscribe":           &s.denials.count[auth.Subscribe],
		"denied/receive":             &s.denials.count[auth.Receive],
		"store/refused":              &c.Unstored,
		"heap/current":               &c.Memory,
		"heap/maximum":               &c.MostMemory,
	}
	for i, limit := range bounded {
		counters["refused/"+limit] = &c.Limits[i]
	}
	return counters
}

// publish publishes a retained message of the gateway itself.
func (r *reporter) publish(topic, value string) {
	p := packet.Publish{Topic: topic, Payload: []byte(value), Retain: true}
	m := newRouting(nil, nil)
	m.begin(&p)
	r.srv.publish(m, nil)
}
