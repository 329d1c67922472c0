package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"gateway/broker/listen"
	"gateway/broker/packet"
)

// A wire is one connection of the load. It speaks as much MQTT 3.1.1 as keeps a broker busy, in
// as few instructions as can be: the load must cost less than what it measures.
type wire struct {
	nc  net.Conn
	in  *bufio.Reader
	out []byte // answers that wait until all that has come is read
}

// readBuffer is what one read takes at most, in bytes.
const readBuffer = 64 << 10

// A transport is how a connection carries MQTT. The zero value is plain TCP.
type transport struct {
	scheme string // mqtt, mqtts, ws or wss; empty: mqtt
	tls    *tls.Config
}

// open connects without saying CONNECT.
func (p *process) open(ctx context.Context, t transport) (net.Conn, error) {
	if t.scheme == "" {
		return new(net.Dialer).DialContext(ctx, "tcp", p.at["mqtt"])
	}
	ctx, cancel := context.WithTimeout(ctx, drain)
	defer cancel()
	return listen.Dial(ctx, t.scheme+"://"+p.at[t.scheme], t.tls)
}

// dial connects with a clean session, and waits for CONNACK.
func (p *process) dial(ctx context.Context, t transport, id string, buffer int) (*wire, error) {
	nc, err := p.open(ctx, t)
	if err != nil {
		return nil, err
	}
	_ = nc.SetDeadline(time.Now().Add(drain)) // there are brokers that take a connection and forget it
	w := &wire{nc: nc, in: bufio.NewReaderSize(nc, buffer)}
	connect := packet.Connect{Version: packet.V311, CleanStart: true, ClientID: id}
	if err := w.ask(&connect, packet.CONNACK); err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return w, nc.SetDeadline(time.Time{})
}

// ask sends a packet and waits for the answer, which must be no refusal.
func (w *wire) ask(p interface {
	Append(dst []byte, v packet.Version) []byte
}, answer packet.Type) error {
	if _, err := w.nc.Write(p.Append(nil, packet.V311)); err != nil {
		return err
	}
	first, body, err := w.next()
	if err != nil {
		return err
	}
	if packet.Type(first>>4) != answer || body[len(body)-1] >= 0x80 || answer == packet.CONNACK && body[1] != 0 {
		return fmt.Errorf("the broker answers %v %x", packet.Type(first>>4), body)
	}
	return nil
}

func (w *wire) subscribe(qos packet.QoS, filters ...string) error {
	s := packet.Subscribe{ID: 1}
	for _, f := range filters {
		s.Filters = append(s.Filters, packet.Subscription{Filter: f, QoS: qos})
	}
	return w.ask(&s, packet.SUBACK)
}

// next returns the first byte and the body of the next packet. The body is valid until the next call.
func (w *wire) next() (first byte, body []byte, err error) {
	head, err := w.in.Peek(2)
	if err != nil {
		return 0, nil, err
	}
	n, size := int(head[1]), 2
	if n >= 0x80 {
		if head, err = w.in.Peek(3); err != nil {
			return 0, nil, err
		}
		n, size = n&0x7F|int(head[2])<<7, 3
	}
	all, err := w.in.Peek(size + n) // a buffer is larger than any packet here
	if err != nil {
		return 0, nil, err
	}
	_, err = w.in.Discard(size + n)
	return all[0], all[size:], err
}

// take reads and answers until the connection ends. delivered is called for each message that
// is complete, acknowledged for each own message that is.
func (w *wire) take(delivered, acknowledged func()) error {
	for {
		first, body, err := w.next()
		if err != nil {
			return err
		}
		switch packet.Type(first >> 4) {
		case packet.PUBLISH:
			w.received(first>>1&3, body, delivered)
		case packet.PUBREL:
			w.answer(packet.PUBCOMP, 0, body)
		case packet.PUBREC:
			w.answer(packet.PUBREL, 0b0010, body)
		case packet.PUBACK, packet.PUBCOMP:
			acknowledged()
		}
		if w.in.Buffered() > 0 || len(w.out) == 0 {
			continue
		}
		if _, err := w.nc.Write(w.out); err != nil {
			return err
		}
		w.out = w.out[:0]
	}
}

func (w *wire) received(qos byte, body []byte, delivered func()) {
	if qos > 0 {
		id := body[2+int(binary.BigEndian.Uint16(body)):]
		w.answer([]packet.Type{1: packet.PUBACK, 2: packet.PUBREC}[qos], 0, id)
	}
	delivered()
}

func (w *wire) answer(t packet.Type, flags byte, id []byte) {
	w.out = append(w.out, byte(t)<<4|flags, 2, id[0], id[1])
}

// A flow is what some publishers send, each as fast as it may, to some subscribers, each of which
// gets everything.
type flow struct {
	topic       string
	publishers  int
	subscribers int // none: what is acknowledged counts
	qos         packet.QoS
	payload     int // bytes
	by          transport
}

const (
	block    = 50   // messages that a publisher writes at once
	window   = 100  // unacknowledged messages of one publisher
	underWay = 1000 // deliveries of a flow that are outstanding; none of the brokers drops any of so few
)

// A current is a flow that runs.
type current struct {
	flow
	credit    chan struct{} // a block each that may be under way; never more than were taken
	sent      atomic.Int64
	delivered atomic.Int64
	acked     atomic.Int64
	wires     []*wire
	readers   sync.WaitGroup
}

// begin connects everybody.
func (f flow) begin(ctx context.Context, p *process) (*current, error) {
	c := &current{flow: f, credit: make(chan struct{}, max(2, underWay/block/max(1, f.subscribers)))}
	for range cap(c.credit) {
		c.credit <- struct{}{}
	}
	each := int64(block * f.subscribers)
	delivered := func() {
		if c.delivered.Add(1)%each == 0 {
			c.credit <- struct{}{}
		}
	}
	for i := range f.subscribers {
		w, err := c.dial(ctx, p, "subscriber"+strconv.Itoa(i))
		if err == nil {
			err = w.subscribe(f.qos, f.topic)
		}
		if err != nil {
			return nil, errors.Join(err, c.end())
		}
		c.readers.Go(func() { _ = w.take(delivered, func() {}) }) // what is missing shows in the end
	}
	return c, nil
}

func (c *current) dial(ctx context.Context, p *process, id string) (*wire, error) {
	w, err := p.dial(ctx, c.by, c.topic+id, readBuffer)
	if err == nil {
		c.wires = append(c.wires, w)
	}
	return w, err
}

// end closes the connections and waits for their readers.
func (c *current) end() error {
	var errs []error
	for _, w := range c.wires {
		errs = append(errs, w.nc.Close())
	}
	c.readers.Wait()
	return errors.Join(errs...)
}

// A publisher sends blocks.
type publisher struct {
	c      *current
	w      *wire
	blocks [][]byte
	acks   chan struct{} // a block each that may be unacknowledged
}

func (c *current) publisher(w *wire) *publisher {
	p := &publisher{c: c, w: w, acks: make(chan struct{}, window/block)}
	m := packet.Publish{Topic: c.topic, QoS: c.qos, Payload: make([]byte, c.payload)}
	for i := range cap(p.acks) {
		var b []byte
		for j := range block {
			if c.qos > 0 {
				m.ID = uint16(i*block + j + 1)
			}
			b = m.Append(b, packet.V311)
		}
		p.blocks = append(p.blocks, b)
		p.acks <- struct{}{}
	}
	n := 0
	c.readers.Go(func() {
		_ = w.take(func() {}, func() {
			c.acked.Add(1)
			if n++; n%block == 0 {
				p.acks <- struct{}{}
			}
		})
	})
	return p
}

// run sends until ctx ends.
func (p *publisher) run(ctx context.Context) error {
	for n := 0; ; n++ {
		if p.c.qos > 0 && !taken(ctx, p.acks) || p.c.subscribers > 0 && !taken(ctx, p.c.credit) || ctx.Err() != nil {
			return nil
		}
		p.c.sent.Add(block)
		if _, err := p.w.nc.Write(p.blocks[n%len(p.blocks)]); err != nil {
			return err
		}
	}
}

func taken(ctx context.Context, credit chan struct{}) bool {
	select {
	case <-credit:
		return true
	case <-ctx.Done():
		return false
	}
}

// missing returns how many messages have not come, or have not been acknowledged.
func (c *current) missing() int64 {
	n := c.sent.Load()*int64(c.subscribers) - c.delivered.Load()
	if c.qos > 0 {
		n += c.sent.Load() - c.acked.Load()
	}
	return n
}

// drain is how long a broker has to deliver what is under way.
const drain = 15 * time.Second

// carry has flows run side by side for the span, and returns how many messages were delivered.
func (b *bench) carry(ctx context.Context, p *process, flows ...flow) (r rate, err error) {
	var currents []*current
	defer func() {
		for _, c := range currents {
			err = errors.Join(err, c.end())
		}
	}()
	var publishers []*publisher
	for _, f := range flows {
		c, err := f.begin(ctx, p)
		if err != nil {
			return r, err
		}
		currents = append(currents, c)
		for i := range f.publishers {
			w, err := c.dial(ctx, p, "publisher"+strconv.Itoa(i))
			if err != nil {
				return r, err
			}
			publishers = append(publishers, c.publisher(w))
		}
	}
	return p.meter(func() (n int64, err error) {
		if err := publish(ctx, b.span, publishers); err != nil {
			return 0, err
		}
		for _, c := range currents {
			for late := time.Now().Add(drain); c.missing() > 0; time.Sleep(time.Millisecond) {
				if time.Now().After(late) {
					return 0, fmt.Errorf("%d of %d messages have not come", c.missing(), c.sent.Load())
				}
			}
			if c.subscribers > 0 {
				n += c.delivered.Load()
			} else {
				n += c.acked.Load()
			}
		}
		return n, nil
	})
}

// publish has publishers send for the span.
func publish(ctx context.Context, span time.Duration, publishers []*publisher) error {
	ctx, cancel := context.WithTimeout(ctx, span)
	defer cancel()
	var running sync.WaitGroup
	failed := make(chan error, len(publishers)) // one from each
	for _, p := range publishers {
		running.Go(func() { failed <- p.run(ctx) })
	}
	running.Wait()
	close(failed)
	var errs []error
	for err := range failed {
		if !errors.Is(err, io.EOF) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
