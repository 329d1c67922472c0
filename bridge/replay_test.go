package bridge

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"gateway/broker/packet"
)

// A stock is a session with messages at QoS 1 that cost nothing to keep: what is measured with it is
// the bridge.
type stock struct {
	messages int
	all      chan struct{} // closed when each is Done

	mu         sync.Mutex
	next, done int
	began      time.Time
}

// Next gives a message after the other, each with a number for a payload.
func (b *stock) Next(ctx context.Context) (packet.Publish, bool, error) {
	b.mu.Lock()
	n := b.next
	if b.next++; n == 0 {
		b.began = time.Now()
	}
	b.mu.Unlock()
	if n >= b.messages {
		<-ctx.Done()
		return packet.Publish{}, false, ctx.Err()
	}
	payload := fmt.Appendf(nil, "%100d", n)
	return packet.Publish{ID: uint16(n%65_535) + 1, QoS: 1, Topic: "up/sensor", Payload: payload}, false, nil
}

// Done counts.
func (b *stock) Done(uint16) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.done++; b.done == b.messages {
		close(b.all)
	}
}

// Waiting returns how many are not Done.
func (b *stock) Waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.messages - b.done
}

func (*stock) Frees(uint16) bool                               { return false }
func (*stock) Accepted(_ uint16, done func(error))             { done(nil) }
func (*stock) Publish(packet.Publish, func(packet.ReasonCode)) {}
func (*stock) Release(_ uint16, done func(packet.ReasonCode))  { done(packet.Success) }
func (*stock) Forget()                                         {}
func (*stock) SessionPresent() bool                            { return true }
func (*stock) Subscriptions() []string                         { return nil }
func (*stock) Close() error                                    { return nil }

func (*stock) Subscribe(s packet.Subscribe) (packet.Suback, error) {
	return packet.Suback{Type: packet.SUBACK, ID: s.ID, Reasons: make([]packet.ReasonCode, len(s.Filters))}, nil
}

func (*stock) Unsubscribe(u packet.Unsubscribe) (packet.Suback, error) {
	return packet.Suback{Type: packet.UNSUBACK, ID: u.ID, Reasons: make([]packet.ReasonCode, len(u.Filters))}, nil
}

// BenchmarkReplay sends a backlog at QoS 1 to mosquitto, as fast as that acknowledges.
func BenchmarkReplay(b *testing.B) {
	for _, version := range []packet.Version{packet.V311, packet.V5} {
		name := map[packet.Version]string{packet.V311: "3.1.1", packet.V5: "5.0"}[version]
		for _, window := range []int{20, 256} {
			b.Run(fmt.Sprintf("%s/window=%d", name, window), func(b *testing.B) {
				address := mosquitto(b, "allow_anonymous true", fmt.Sprint("max_inflight_messages ", window))
				session := &stock{messages: b.N, all: make(chan struct{})}
				b.ReportAllocs()
				start(b, Config{
					Name: "cloud", Version: version, URLs: []string{"mqtt://" + address}, ClientID: "site", Window: window,
					Rules: []Rule{{Direction: Out, Filter: "up/#", QoS: 1}}, Log: slog.New(slog.DiscardHandler),
					Open: func(context.Context, int) (Session, error) { return session, nil },
				})
				<-session.all
				b.ReportMetric(float64(b.N)/time.Since(session.began).Seconds(), "messages/s")
			})
		}
	}
}
