package hostile

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/packet"
	"gateway/internal/client"
)

// patience is how long a good client waits before it calls something lost. It is generous: what is
// slow on a busy machine is not lost.
const patience = 20 * time.Second

// A couple is a good publisher and its subscriber. The publisher sends one message after the other,
// each when the one before is acknowledged.
type couple struct {
	t        testing.TB
	server   *broker.Server // nil if it is in another process
	began    time.Time
	pub, sub *client.Client
	topic    string
	end      chan struct{}
	stop     func() // ends the sending
	cut      func() // ends the connections too
	sending  sync.WaitGroup

	mu      sync.Mutex
	sentAt  []moment
	took    []moment // by message, from publisher to subscriber
	strange []string // messages that came out of turn
}

// A moment is a time, or the time between two.
type moment struct {
	time  time.Duration // since the couple began
	turns int64         // of the broker's busy clients, see broker.Stats; 0 if it is in another process
}

// now returns the moment.
func (c *couple) now() moment {
	m := moment{time: time.Since(c.began)}
	if c.server != nil {
		m.turns = c.server.Stats().Turns.Load()
	}
	return m
}

// couple connects one whose sessions live for so many seconds without a connection; at 0 the disk has
// no part in it.
func (s *site) couple(qos packet.QoS, expiry uint32) *couple {
	s.t.Helper()
	c := &couple{t: s.t, server: s.server, began: time.Now(), topic: fmt.Sprint("good/", qos, "/", expiry), end: make(chan struct{})}
	c.stop = sync.OnceFunc(func() { close(c.end) })
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	join := func(id string, receive func(packet.Publish)) *client.Client {
		m, err := client.Dial(ctx, "mqtt://"+s.address, client.Options{
			ClientID: fmt.Sprint("good-", id, qos, "-", expiry), Version: packet.V5, KeepAlive: 30, SessionExpiry: expiry, Receive: receive,
		})
		if err != nil {
			s.t.Fatal(err)
		}
		return m
	}
	c.sub = join("sub", c.receive)
	c.pub = join("pub", nil)
	if _, err := c.sub.Subscribe(ctx, packet.Subscription{Filter: c.topic, QoS: qos}); err != nil {
		s.t.Fatal(err)
	}
	c.sending.Go(func() { c.send(qos, s.period) })
	c.cut = sync.OnceFunc(func() {
		c.stop()
		c.sending.Wait()
		c.pub.Close()
		c.sub.Close()
	})
	s.t.Cleanup(c.cut)
	return c
}

// receive notes a message: the next number is expected.
func (c *couple) receive(p packet.Publish) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.took); n < len(c.sentAt) && string(p.Payload) == fmt.Sprint(n) {
		now, sent := c.now(), c.sentAt[n]
		c.took = append(c.took, moment{now.time - sent.time, now.turns - sent.turns})
		return
	}
	c.strange = append(c.strange, fmt.Sprintf("%q after %d", p.Payload, len(c.took)))
}

// arrived returns how many messages have come.
func (c *couple) arrived() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.took)
}

// send publishes a number in every period until the end.
func (c *couple) send(qos packet.QoS, period time.Duration) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-c.end:
			return
		case <-tick.C:
		}
		c.mu.Lock()
		c.sentAt = append(c.sentAt, c.now())
		c.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		_, err := c.pub.Publish(ctx, packet.Publish{Topic: c.topic, QoS: qos, Payload: fmt.Append(nil, n)})
		cancel()
		if err != nil {
			c.t.Errorf("a good client's message %d: %v", n, err)
			return
		}
	}
}

// settle waits until every message so far has come.
func (c *couple) settle() {
	c.t.Helper()
	c.mu.Lock()
	goal := len(c.sentAt) + 10
	c.mu.Unlock()
	deadline := time.Now().Add(patience)
	for {
		c.mu.Lock()
		n, strange := len(c.took), slices.Clone(c.strange)
		c.mu.Unlock()
		switch {
		case len(strange) > 0:
			c.t.Fatalf("a good client got %v", strange)
		case n >= goal:
			return
		case time.Now().After(deadline):
			c.t.Fatalf("a good client waits for message %d", n)
		}
		time.Sleep(time.Millisecond)
	}
}

// leave ends the couple when everything has come.
func (c *couple) leave() {
	c.t.Helper()
	c.settle()
	c.stop()
	c.sending.Wait()
	c.mu.Lock()
	sent := len(c.sentAt)
	c.mu.Unlock()
	eventually(c.t, "the last message comes", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.took) == sent
	})
	c.cut()
}

// p99 returns what 99 of 100 times are below.
func p99(d []moment) time.Duration {
	slices.SortFunc(d, func(a, b moment) int { return cmp.Compare(a.time, b.time) })
	return d[len(d)*99/100].time
}

// during returns, for each couple, how long the messages took that came while f ran.
func during(couples []*couple, f func()) (took [][]moment) {
	from := make([]int, len(couples))
	for i, c := range couples {
		c.mu.Lock()
		from[i] = len(c.took)
		c.mu.Unlock()
	}
	f()
	for i, c := range couples {
		c.settle()
		c.mu.Lock()
		took = append(took, slices.Clone(c.took[from[i]:]))
		c.mu.Unlock()
	}
	return took
}
