package bridge

import (
	"encoding/json"
	"fmt"
	"time"

	"gateway/broker/packet"
)

// The words of State.State.
const (
	Connecting = "connecting" // since the start, nothing has failed yet
	Connected  = "connected"
	Down       = "down"    // the last try failed, or the connection was lost; the bridge tries on
	Offline    = "offline" // the bridge has ended; in the cloud also: its connection is lost
)

// A State is what a bridge tells about itself, retained, on both sides.
type State struct {
	State   string     `json:"state"`
	Since   *time.Time `json:"since,omitempty"`
	URL     string     `json:"url,omitempty"`
	Queued  int        `json:"queued"`           // messages that wait for the cloud
	Oldest  *time.Time `json:"oldest,omitempty"` // when the first of them came
	Dropped int64      `json:"dropped,omitempty"`
	// Dead counts the messages that were put aside since the start, see DeadTopic.
	Dead int64 `json:"dead,omitempty"`
	// Held counts the messages of the cloud that wait because the local broker cannot take the first of them now.
	Held int64 `json:"held,omitempty"`
	// Circling counts the messages that were stopped since the start because the same one had
	// crossed very often; 3.1.1 only.
	Circling int64 `json:"circling,omitempty"`
	// SessionsLost counts how often the cloud came back without its session, since the start.
	SessionsLost int    `json:"sessions_lost,omitempty"`
	LastError    string `json:"last_error,omitempty"`
}

// offline is the state that the cloud has when there is no connection: the will, and the last
// word before DISCONNECT.
const offline = `{"state":"` + Offline + `"}`

// payload returns the state as JSON.
func (s State) payload() []byte {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Appendf(nil, `{"state":%q}`, s.State) // a time beyond the year 9999
	}
	return b
}

// State returns the state of the bridge now.
func (b *Bridge) State() State {
	b.mu.Lock()
	s, since := b.state, b.since
	b.mu.Unlock()
	s.Since = b.date(since)
	s.Dropped = b.drops.count.Load()
	s.Held = b.caution.held.Load()
	s.Dead, s.Circling = b.drops.aside.Load(), b.drops.round.Load()
	if b.config.Backlog == nil {
		return s
	}
	for lane := range MaxLanes {
		n, oldest := b.config.Backlog(lane)
		s.Queued += n
		if n == 0 || oldest.IsZero() {
			continue
		}
		if day := b.date(oldest); day != nil && (s.Oldest == nil || day.Before(*s.Oldest)) {
			s.Oldest = day
		}
	}
	return s
}

// date returns the time of day of a moment for the state, nil if it is not known or there is none.
func (b *Bridge) date(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	day, known := at, true
	if b.config.Date != nil {
		day, known = b.config.Date(at)
	}
	if !known {
		return nil
	}
	day = day.UTC().Truncate(time.Millisecond)
	return &day
}

// LocalStateTopic returns the topic of the local broker that has the state of a bridge.
func LocalStateTopic(name string) string { return "$SYS/broker/bridge/" + name + "/state" }

// changed reports whether the state has counts that were not published.
func changed(b *Bridge) bool {
	s := b.State()
	return b.published != [2]int64{int64(s.Queued), s.Held}
}

// enter changes the state, and logs the change. It reports whether anything changed.
func (b *Bridge) enter(state string, cause error) bool {
	b.mu.Lock()
	before := b.state
	if b.state.State != state {
		b.state.State, b.since = state, time.Now()
	}
	switch {
	case cause != nil:
		b.state.LastError = cause.Error()
	case state == Connected:
		b.state.LastError = ""
	}
	after := b.state
	b.mu.Unlock()

	switch {
	case after.State == before.State && after.LastError == before.LastError:
		if cause != nil {
			b.log.Debug("bridge still down", "error", cause)
		}
		return false
	case cause != nil:
		b.log.Warn("bridge "+state, "error", cause)
	default:
		b.log.Info("bridge "+state, "url", after.URL)
	}
	return true
}

// publishState publishes the state to the local broker, and to the cloud when there is a
// connection.
func (b *Bridge) publishState(open queues, l link) error {
	state := b.State()
	b.published = [2]int64{int64(state.Queued), state.Held}
	if open != nil {
		open[strictLane].Publish(packet.Publish{
			QoS: 1, Retain: true, Topic: LocalStateTopic(b.config.Name), Payload: state.payload(),
		}, nil)
	}
	if l == nil || b.config.StateTopic == "" {
		return nil
	}
	return l.send(packet.Publish{Retain: !b.noRetain, Topic: b.config.StateTopic, Payload: state.payload()})
}
