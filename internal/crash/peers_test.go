package crash

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// A peer is a client that outlives every gateway: its session goes on where the last connection
// broke.
type peer struct {
	name    string
	version packet.Version
	address string
	session *client.Session
	receive func(packet.Publish)
	known   bool // the server has acknowledged something of the session
	lost    int  // connections on which it did not know the session any more
}

// visit makes one connection, if the server is there.
func (p *peer) visit(ctx context.Context, work func(*client.Client) error) {
	dialing, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := client.Dial(dialing, "mqtt://"+p.address, client.Options{
		ClientID: p.name, Version: p.version, KeepAlive: 5, Window: 20,
		KeepSession: true, SessionExpiry: 3600, Session: p.session, Receive: p.receive,
	})
	if err != nil {
		select { // as a device that tries again
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
		return
	}
	defer c.Close()
	if p.known && !c.Connack().SessionPresent {
		p.lost++
	}
	if work(c) == nil {
		p.known = true
	}
}

// A device publishes numbered messages, at QoS 1 and 2 in turn.
type device struct {
	peer
	topic string // up/NAME or greenhouse/down/NAME
	enter string // the topic as it stands in the ledger
	to    []place
	pause time.Duration
	book  *ledger
	mark  func(topic string, number int) // called when a message is acknowledged; may be nil
	ready chan struct{}                  // closed when its messages have a way; nil: they have
}

// run publishes until ctx ends, and then goes on until everything is acknowledged, but not beyond
// the end of patience.
func (d *device) run(ctx, patience context.Context) error {
	for ctx.Err() == nil {
		d.visit(ctx, func(c *client.Client) error { return d.publish(ctx, c) })
	}
	for d.session.Outstanding() > 0 {
		if patience.Err() != nil {
			return fmt.Errorf("%s: %d messages are never acknowledged", d.name, d.session.Outstanding())
		}
		d.visit(patience, func(c *client.Client) error { return c.Wait(patience) })
	}
	if d.lost > 0 {
		return fmt.Errorf("%s: its session was forgotten %d times [MQTT-4.1.0-1]", d.name, d.lost)
	}
	return nil
}

func (d *device) publish(ctx context.Context, c *client.Client) error {
	tick := time.NewTicker(d.pause)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
		case <-c.Done():
			return nil // the session is there: Dial has seen CONNACK
		case <-ctx.Done():
			return nil
		}
		select {
		case <-d.ready:
		default:
			if d.ready != nil {
				_ = c.Send(ctx, packet.Publish{Topic: d.topic + probe}, nil) // the next may get through
				continue
			}
		}
		qos := packet.QoS(1 + i%2)
		part := fmt.Sprintf("/%d", i%4)
		if d.book.behind(d.enter + part) {
			continue
		}
		number := d.book.send(d.enter+part, qos, d.to...)
		m := packet.Publish{Topic: d.topic + part, QoS: qos, Payload: payload(number)}
		err := c.Send(ctx, m, func(code packet.ReasonCode, err error) {
			// A PUBCOMP that does not know the identifier answers a PUBREL that was repeated.
			if err == nil && (!code.Failed() || code == packet.PacketIDNotFound) {
				d.book.acknowledge(d.enter+part, number)
				if d.mark != nil {
					d.mark(d.enter+part, number)
				}
			}
		})
		if err != nil {
			d.book.withdraw(d.enter + part)
		}
	}
}

// probe ends the topic of messages that only look for the way.
const probe = "/probe"

// payload has from 40 to 1,000 bytes: several in a page, or half of one.
func payload(number int) []byte {
	size := 40 + number%60
	if number%10 == 0 {
		size = 1000
	}
	return fmt.Appendf(nil, "%d %s", number, strings.Repeat("x", size))
}

// A subscriber keeps a session and a subscription for as long as it lives.
type subscriber struct {
	peer
	filters []string
}

func (s *subscriber) run(ctx context.Context) {
	for ctx.Err() == nil {
		s.visit(ctx, func(c *client.Client) error {
			if !c.Connack().SessionPresent {
				for _, f := range s.filters {
					if _, err := c.Subscribe(ctx, packet.Subscription{Filter: f, QoS: 2}); err != nil {
						return err
					}
				}
			}
			select {
			case <-c.Done():
			case <-ctx.Done():
			}
			return nil
		})
	}
}

// Peers are those around a gateway: devices, a subscriber, and a cloud with two clients of
// its own.
type peers struct {
	book     *ledger
	devices  []*device
	readers  []*subscriber
	hoard    *subscriber // subscribes, and never comes back
	stopLoad context.CancelFunc
	stopAll  context.CancelFunc
	patience context.Context // ends when what is not done yet never will be
	giveUp   context.CancelFunc
	loading  sync.WaitGroup
	reading  sync.WaitGroup
}

// newPeers describes the peers of a gateway at one address and a cloud at another. Without a
// cloud there are only devices, and nobody takes what they send.
func newPeers(gateway, cloud string, mark func(string, int)) *peers {
	book := newLedger()
	p := &peers{book: book}
	to := []place{atCloud, atLocal}
	for name, version := range map[string]packet.Version{"old": packet.V311, "new": packet.V5} {
		s := client.NewSession()
		s.ReuseIDs() // an identifier that the gateway wrongly still knows costs the next message
		p.devices = append(p.devices, &device{
			peer:  peer{name: name, version: version, address: gateway, session: s},
			topic: "up/" + name, enter: "up/" + name, to: to, pause: 2 * time.Millisecond, book: book, mark: mark,
		})
	}
	if cloud == "" {
		return p
	}
	ready := make(chan struct{})
	found := sync.OnceFunc(func() { close(ready) })
	p.devices = append(p.devices, &device{
		ready: ready,
		peer:  peer{name: "commander", version: packet.V311, address: cloud, session: client.NewSession()},
		topic: "greenhouse/down/c", enter: "down/c", to: []place{atLocal}, pause: 5 * time.Millisecond, book: book,
	})
	p.readers = []*subscriber{
		{peer{name: "local", version: packet.V5, address: gateway, session: client.NewSession(), receive: func(m packet.Publish) {
			if strings.HasSuffix(m.Topic, probe) {
				found()
				return
			}
			book.arrive(atLocal, m.Topic, m.Payload)
		}}, []string{"up/#", "down/#"}},
		{peer{name: "consumer", version: packet.V311, address: cloud, session: client.NewSession(), receive: func(m packet.Publish) {
			book.arrive(atCloud, strings.TrimPrefix(m.Topic, "greenhouse/"), m.Payload)
		}}, []string{"greenhouse/up/#"}},
	}
	p.hoard = &subscriber{peer{name: "hoard", version: packet.V5, address: gateway, session: client.NewSession()}, []string{"up/#"}}
	return p
}

// sleeper makes a session that subscribes and never comes back: what the gateway acknowledges must
// be in its store.
func (s *site) sleeper() {
	s.t.Helper()
	s.readers = []*subscriber{{peer{
		name: "local", version: packet.V5, address: s.address, session: client.NewSession(),
	}, []string{"up/#"}}}
	s.subscribe(s.t)
	s.readers = nil
}

// subscribe waits until the sessions and subscriptions are there, so that every message finds them.
func (p *peers) subscribe(t *testing.T) {
	t.Helper()
	all := p.readers
	if p.hoard != nil {
		all = append(slices.Clone(all), p.hoard)
	}
	for _, s := range all {
		for deadline := time.Now().Add(20 * time.Second); !s.known; {
			if time.Now().After(deadline) {
				t.Fatalf("%s cannot subscribe", s.name)
			}
			s.visit(t.Context(), func(c *client.Client) error {
				for _, f := range s.filters {
					if _, err := c.Subscribe(t.Context(), packet.Subscription{Filter: f, QoS: 2}); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
}

// start begins the load.
func (p *peers) start(t *testing.T) {
	var load, all context.Context
	load, p.stopLoad = context.WithCancel(t.Context())
	all, p.stopAll = context.WithCancel(t.Context())
	p.patience, p.giveUp = context.WithCancel(t.Context())
	for _, d := range p.devices {
		p.loading.Go(func() {
			if err := d.run(load, p.patience); err != nil {
				p.book.mu.Lock()
				p.book.fault("%v", err)
				p.book.mu.Unlock()
			}
		})
	}
	for _, s := range p.readers {
		p.reading.Go(func() { s.run(all) })
	}
}

// stop ends everything at once, whatever is not acknowledged.
func (p *peers) stop() {
	p.stopLoad()
	p.giveUp()
	p.stopAll()
	p.loading.Wait()
	p.reading.Wait()
}

// finish ends the load, waits until every message is acknowledged and has arrived, and ends the
// rest. It returns what is wrong then.
func (p *peers) finish(limit time.Duration) []string {
	p.stopLoad()
	over := time.AfterFunc(limit, p.giveUp)
	defer over.Stop()
	p.loading.Wait()
	for deadline := time.Now().Add(limit); p.book.open() > 0 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond) // a poll with a deadline
	}
	quiet(p.book)
	p.stopAll()
	p.reading.Wait()
	faults := append(p.book.wrong(), p.book.lost(nil)...)
	for _, s := range p.readers {
		if s.lost > 0 {
			faults = append(faults, fmt.Sprintf("%s: its session was forgotten %d times [MQTT-4.1.0-1]", s.name, s.lost))
		}
	}
	return faults
}

// quiet waits until nothing has arrived for half a second: what is sent twice comes late.
func quiet(book *ledger) {
	last, since := book.sum().arrived, time.Now()
	for time.Since(since) < 500*time.Millisecond {
		time.Sleep(10 * time.Millisecond) // a poll
		if n := book.sum().arrived; n != last {
			last, since = n, time.Now()
		}
	}
}
