package bridge

import (
	"bytes"
	"context"
	"errors"
	"os"
	"time"
)

// Targets are the URLs of a cloud, in order of preference.
type targets struct {
	all []target
	at  int // the one that is used, or tried next
}

func (t *targets) current() target { return t.all[t.at] }

// next chooses the URL that follows a try. It reports whether that is to be tried at once: when
// all have failed, there is a pause.
func (t *targets) next(last try) (now bool) {
	switch {
	case errors.Is(last.err, errReturn):
		t.at = 0
		return true
	case last.good || last.err == nil:
		return false
	}
	t.at = (t.at + 1) % len(t.all)
	return t.at != 0
}

var errReturn = errors.New("a URL that is preferred can be reached again")

// goHome ends a connection to a URL that is not the first when one before it can be reached again,
// up to TLS and WebSocket. Until then the connection that works is kept.
func (b *Bridge) goHome(l *life) {
	if b.targets.at == 0 {
		return
	}
	preferred := b.targets.all[:b.targets.at]
	tick := time.NewTicker(b.config.ReturnInterval)
	defer tick.Stop()
	for {
		select {
		case <-l.Done():
			return
		case <-tick.C:
		}
		for _, t := range preferred {
			ctx, stop := context.WithTimeout(l, b.config.ConnectTimeout)
			conn, err := b.dial(ctx, t, b.config.TLS)
			stop()
			if err == nil {
				conn.Close()
				l.end(errReturn)
				return
			}
		}
	}
}

// routeFiles tell the routes of this machine, where the kernel is Linux.
var routeFiles = []string{"/proc/net/route", "/proc/net/ipv6_route"}

// routes returns the routes of this machine, without the counters that change by themselves.
func routes() (all []byte) {
	for _, name := range routeFiles {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // not Linux, or without this version of IP
		}
		for line := range bytes.Lines(text) {
			fields := bytes.Fields(line)
			switch {
			case len(fields) == 11: // IPv4: interface, destination, gateway, flags, use counters, metric, mask
				all = append(append(all, bytes.Join(fields[:4], []byte{' '})...), fields[7]...)
			case len(fields) == 10: // IPv6: destination, source, next hop, metric, counters, flags, interface
				all = append(append(all, bytes.Join(fields[:6], []byte{' '})...), fields[9]...)
			}
			all = append(all, '\n')
		}
	}
	return all
}

// networkPeriod is how often the routes are looked at.
const networkPeriod = time.Second

// rest waits until the next try: for d, until ctx ends, or until the routes of this machine change,
// because the network may be back then.
func rest(ctx context.Context, d time.Duration, routes func() []byte) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	tick := time.NewTicker(networkPeriod)
	defer tick.Stop()
	for before := routes(); ; {
		select {
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
			if !bytes.Equal(routes(), before) {
				return
			}
		}
	}
}
