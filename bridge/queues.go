package bridge

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"gateway/broker/packet"
)

// Queues are the open sessions of a bridge, by the number of the lane; nil where a lane has none.
// The first is always there.
type queues []Session

func (q queues) close() {
	for _, s := range q {
		if s != nil {
			s.Close()
		}
	}
}

// open opens the local sessions and sees to it that their subscriptions are those of the rules. So
// the queues fill from the start of the gateway on, cloud or no cloud.
func (b *Bridge) open(ctx context.Context) (queues, error) {
	open := make(queues, MaxLanes)
	for lane := range open {
		if lane != strictLane && !b.rules.liveFirst() && !b.config.waits(lane) {
			continue
		}
		s, err := b.config.Open(ctx, lane)
		if err != nil {
			open.close()
			return nil, fmt.Errorf("%w: %w", errLocal, err)
		}
		open[lane] = s
	}
	live := open.live()
	for lane, s := range open {
		var want []packet.Subscription
		switch {
		case lane == strictLane:
			want = append(b.rules.lane(false), packet.Subscription{
				Filter: againPrefix(b.config.Name) + "#", QoS: 2, RetainHandling: 2,
			})
		case lane == live:
			want = b.rules.lane(true)
		}
		if s == nil || b.opened[lane] && s.SessionPresent() {
			continue
		}
		if err := resubscribe(s, want); err != nil {
			open.close()
			return nil, fmt.Errorf("%w: %w", errLocal, err)
		}
		b.opened[lane] = true
	}
	return open, nil
}

// waits reports whether a lane that no rule needs any more has messages.
func (c *Config) waits(lane int) bool {
	if c.Backlog == nil {
		return false
	}
	n, _ := c.Backlog(lane)
	return n > 0
}

// live returns the number of the lane that has the fresh messages of rules that say live first.
func (q queues) live() int {
	for lane := strictLane + 1; lane < len(q); lane++ {
		if q[lane] != nil && len(q[lane].Subscriptions()) > 0 {
			return lane
		}
	}
	return strictLane + 1
}

// resubscribe makes the subscriptions of a session those wanted. What is queued stays.
func resubscribe(s Session, want []packet.Subscription) error {
	gone := without(slices.DeleteFunc(s.Subscriptions(), isRecord), want)
	if len(gone) > 0 {
		if _, err := s.Unsubscribe(packet.Unsubscribe{ID: 1, Filters: gone}); err != nil {
			return err
		}
	}
	if len(want) == 0 {
		return nil
	}
	return subscribed(s, want)
}

// subscribed subscribes, and fails if any filter does.
func subscribed(s Session, subs []packet.Subscription) error {
	ack, err := s.Subscribe(packet.Subscribe{ID: 1, Filters: subs})
	for i, code := range ack.Reasons {
		if code.Failed() && err == nil && i < len(subs) {
			err = fmt.Errorf("subscription %q: %s", subs[i].Filter, code)
		}
	}
	return err
}

// without returns the filters that are not among the subscriptions.
func without(filters []string, subs []packet.Subscription) (gone []string) {
	for _, f := range filters {
		if !slices.ContainsFunc(subs, func(s packet.Subscription) bool { return s.Filter == f }) {
			gone = append(gone, f)
		}
	}
	return gone
}

// lanes returns the lanes of a new connection. If the live lane has a backlog and the next one is
// empty, fresh messages go there from now on: an outage is over.
func (b *Bridge) lanes(open queues) ([]*lane, error) {
	live := open.live()
	if next := after(live); b.rules.liveFirst() && open[live].Waiting() > b.config.Window && open[next].Waiting() == 0 {
		if err := b.config.Move(open[live], open[next], b.rules.lane(true)); err != nil {
			return nil, fmt.Errorf("move the live subscriptions: %w", err)
		}
		live = next
	}
	var lanes []*lane
	add := func(number int) *lane {
		if open[number] == nil {
			return nil
		}
		l := &lane{number: number, session: open[number], backlog: open[number].Waiting(), room: make(chan struct{}, 1)}
		lanes = append(lanes, l)
		return l
	}
	add(strictLane)
	add(live)
	var before *lane
	for number := after(live); number != live; number = after(number) { // the oldest backlog first
		if l := add(number); l != nil {
			l.history, l.after = true, before
			before = l
		}
	}
	return lanes, nil
}

// after returns the live lane that follows one in the circle.
func after(lane int) int { return lane%liveLanes + 1 }

// The filters that the cloud was asked for outlive the bridge: when a rule has gone, the cloud
// must be told. So the strict session remembers them, as subscriptions to topics below
// $bridge/NAME/asked/, where nothing is ever published.
const recordPrefix = "$bridge/"

func isRecord(filter string) bool { return strings.HasPrefix(filter, recordPrefix) }

func record(bridge, filter string) string { return recordPrefix + bridge + "/asked/" + filter }

// asked returns the filters that the cloud may have been asked for.
func (q queues) asked(bridge string) (filters []string) {
	for _, f := range q[strictLane].Subscriptions() {
		if filter, ok := strings.CutPrefix(f, record(bridge, "")); ok {
			filters = append(filters, filter)
		}
	}
	return filters
}

// ask notes that the cloud is about to be asked for subscriptions.
func (q queues) ask(bridge string, subs []packet.Subscription) error {
	known := q.asked(bridge)
	var fresh []packet.Subscription
	for _, s := range subs {
		if !slices.Contains(known, s.Filter) {
			fresh = append(fresh, packet.Subscription{Filter: record(bridge, s.Filter), RetainHandling: 2})
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	return subscribed(q[strictLane], fresh)
}

// forget drops the notes of filters that are not among the subscriptions: the cloud has been told,
// or has forgotten them itself. If that fails, the cloud is told once more after the next start.
func (q queues) forget(bridge string, subs []packet.Subscription) {
	var gone []string
	for _, f := range without(q.asked(bridge), subs) {
		gone = append(gone, record(bridge, f))
	}
	if len(gone) > 0 {
		_, _ = q[strictLane].Unsubscribe(packet.Unsubscribe{ID: 1, Filters: gone})
	}
}
