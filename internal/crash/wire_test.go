package crash

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"gateway/broker/packet"
)

// A wire is the line between the bridge and its cloud. It carries whole packets, can be cut between
// any two of them, and takes down what either side says, as a receiver would understand it to
// whom nothing is lost. It reads packets by itself: the codec under test has no part in it.
type wire struct {
	target  string
	version packet.Version
	ln      net.Listener
	workers sync.WaitGroup

	mu       sync.Mutex
	random   *rand.Rand
	most     int // packets until a new connection is cut, at most; 0: it is not
	cuts     int
	up, down traffic
	open     map[*crossing]struct{}
}

// Traffic is what one side has said.
type traffic struct {
	ids    map[uint16]bool  // of QoS 2, from PUBLISH to PUBREL
	lines  map[string][]int // by topic, the numbers of its messages
	faults []string
}

// A crossing is one connection over the wire.
type crossing struct {
	near, far net.Conn
	left      int // packets until it is cut; -1: it is not
	cut       bool
}

func newWire(t *testing.T, target, version string, random *rand.Rand) *wire {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{target: target, version: packet.V311, ln: ln, random: random, open: map[*crossing]struct{}{}}
	if version == "5.0" {
		w.version = packet.V5
	}
	for _, side := range []*traffic{&w.up, &w.down} {
		side.ids, side.lines = map[uint16]bool{}, map[string][]int{}
	}
	w.workers.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			w.workers.Go(func() { w.relay(near) })
		}
	})
	t.Cleanup(func() { ln.Close(); w.sever(); w.workers.Wait() })
	return w
}

func (w *wire) address() string { return w.ln.Addr().String() }

// often lets each new connection be cut after so many packets at most, in both directions together;
// 0: after none.
func (w *wire) often(most int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.most = most
}

// sever cuts what is open now, wherever it is. It returns how many connections that were.
func (w *wire) sever() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.open {
		c.near.Close()
		c.far.Close()
	}
	return len(w.open)
}

func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cuts
}

func (w *wire) relay(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", w.target)
	if err != nil {
		return // the cloud is away
	}
	defer far.Close()
	c := &crossing{near: near, far: far, left: -1}
	w.mu.Lock()
	if w.most > 0 {
		c.left = w.random.IntN(w.most)
	}
	w.open[c] = struct{}{}
	w.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { w.pass(c, far, near, &w.up) })
	w.pass(c, near, far, &w.down)
	both.Wait()
	w.mu.Lock()
	delete(w.open, c)
	w.mu.Unlock()
}

// pass carries packets one way until the connection ends, and ends it.
func (w *wire) pass(c *crossing, to, from net.Conn, side *traffic) {
	defer c.near.Close()
	defer c.far.Close()
	r := bufio.NewReader(from)
	for {
		frame, err := readFrame(r)
		if err != nil || !w.carries(c, frame, side) {
			return
		}
		if _, err := to.Write(frame); err != nil {
			return
		}
	}
}

// carries decides whether a packet is carried. If not, the connection is cut before it: half of the
// times so that what the other side has not read yet is lost as well.
func (w *wire) carries(c *crossing, frame []byte, side *traffic) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.left == 0 {
		if !c.cut && w.random.IntN(2) == 0 {
			_ = c.near.(*net.TCPConn).SetLinger(0)
			_ = c.far.(*net.TCPConn).SetLinger(0)
		}
		if !c.cut {
			c.cut = true
			w.cuts++
		}
		return false
	}
	if c.left > 0 {
		c.left--
	}
	side.hear(frame, w.version)
	return true
}

var errFrame = errors.New("no MQTT packet")

// readFrame reads one packet: a byte, a length of up to four, and so many more.
func readFrame(r *bufio.Reader) ([]byte, error) {
	frame := make([]byte, 0, 64)
	size := 0
	for i := range 5 {
		b, err := r.ReadByte()
		if err != nil {
			return nil, err
		}
		frame = append(frame, b)
		if i == 0 {
			continue
		}
		size |= int(b&0x7F) << (7 * (i - 1))
		if b < 0x80 {
			break
		}
		if i == 4 {
			return nil, errFrame
		}
	}
	head := len(frame)
	frame = append(frame, make([]byte, size)...)
	_, err := io.ReadFull(r, frame[head:])
	return frame, err
}

// hear takes down a packet.
func (s *traffic) hear(frame []byte, v packet.Version) {
	body := frame[1:]
	for len(body) > 0 && body[0] >= 0x80 {
		body = body[1:]
	}
	body = body[1:]
	switch kind := frame[0] >> 4; {
	case kind == byte(packet.PUBREL):
		delete(s.ids, binary.BigEndian.Uint16(body))
	case kind == byte(packet.PUBLISH):
		qos, dup := frame[0]>>1&3, frame[0]&0b1000 != 0
		n := int(binary.BigEndian.Uint16(body))
		topic := strings.TrimPrefix(string(body[2:2+n]), "greenhouse/")
		if body = body[2+n:]; qos == 0 {
			return
		}
		id := binary.BigEndian.Uint16(body)
		if body = body[2:]; v == packet.V5 {
			size, k := binary.Uvarint(body) // which is how MQTT writes numbers, too
			body = body[k+int(size):]
		}
		if s.ids[id] {
			if !dup {
				s.faults = append(s.faults, fmt.Sprintf("%s with identifier %d is sent again without DUP [MQTT-3.3.1-1]", topic, id))
			}
			return
		}
		if qos == 2 {
			s.ids[id] = true
		}
		var number int
		if _, err := fmt.Sscan(string(body), &number); err != nil || strings.HasSuffix(topic, probe) {
			return
		}
		s.lines[topic] = append(s.lines[topic], number)
	}
}

// Verdicts count what is wrong with lines of numbers.
type verdicts struct{ doubled, disordered int }

// judge looks at the numbers of a topic: each comes in its turn for the first time, and at QoS 2 once.
func (v *verdicts) judge(numbers []int, qos packet.QoS) {
	newest := -1
	seen := make(map[int]bool, len(numbers))
	for _, n := range numbers {
		switch {
		case seen[n] && qos == 2:
			v.doubled++
		case !seen[n] && n < newest:
			v.disordered++
		}
		newest, seen[n] = max(newest, n), true
	}
}

// taken reports whether a receiver has made of what was said what a receiver should: the same in
// the same order. It may have heard less of it than the wire, and so have taken for a repetition
// what came twice.
func taken(said, arrived []int) bool {
	all := make(map[int]bool)
	for _, n := range said {
		all[n] = true
	}
	for _, n := range arrived {
		i := slices.Index(said, n)
		if i < 0 {
			return false
		}
		said = said[i+1:]
		delete(all, n)
	}
	return len(all) == 0
}

// said returns what is wrong with what the gateway has said.
func (w *wire) said(book *ledger) (faults []string, v verdicts) {
	w.mu.Lock()
	defer w.mu.Unlock()
	book.mu.Lock()
	defer book.mu.Unlock()
	faults = slices.Clone(w.up.faults)
	for _, topic := range slices.Sorted(maps.Keys(book.accounts)) {
		a, before := book.accounts[topic], v
		if !a.ours {
			continue
		}
		if v.judge(w.up.lines[topic], a.qos); v != before {
			faults = append(faults, fmt.Sprintf("%s left at QoS %d as %v", topic, a.qos, w.up.lines[topic]))
		}
	}
	return faults, v
}

// heard returns what is wrong with what the gateway has made of what it was told, when all has come to
// rest, and what is wrong with what it was told, which is the cloud's own doing.
func (w *wire) heard(book *ledger) (faults []string, cloud verdicts) {
	w.mu.Lock()
	defer w.mu.Unlock()
	book.mu.Lock()
	defer book.mu.Unlock()
	for _, topic := range slices.Sorted(maps.Keys(book.accounts)) {
		a := book.accounts[topic]
		if a.ours {
			continue
		}
		cloud.judge(w.down.lines[topic], a.qos)
		if here := a.places[atLocal].line; a.qos == 2 && !taken(w.down.lines[topic], here) {
			faults = append(faults, fmt.Sprintf("%s: the cloud sent %v, and %v arrived", topic, w.down.lines[topic], here))
		}
	}
	return faults, cloud
}
