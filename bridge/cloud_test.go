package bridge

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// A cloud is a broker that believes nothing: it keeps one session, and checks each packet
// against the standard and against what the ledger has made durable. Its codec is not ours.
//
// It cuts the connection instead of reading or writing a packet, as cuts says.
type cloud struct {
	t      *testing.T
	ledger *ledger
	net.Listener
	dialect dialect
	done    chan struct{}

	mu          sync.Mutex
	cuts        []int  // packets of each connection, in both directions, until it is cut; after the last none is
	onCut       func() // called without the lock
	conn        net.Conn
	connections int
	session     bool
	received    map[uint16]bool     // QoS 2 identifiers
	topics      map[string][]string // payloads that arrived, per topic
	seen        map[uint16]bool     // identifiers of PUBLISH; a test sends too few to use one twice
	down        []*downward         // messages for the bridge
	nextID      uint16
	silent      bool   // reads, and answers nothing but CONNECT
	hold        bool   // acknowledges no PUBLISH
	skip        string // topic that is never acknowledged
	inFlight    int    // PUBLISH not acknowledged on this connection
	maxInFlight int
	// reject is a topic for which the connection is closed, as a kernel does it when bytes are
	// unread: the acknowledgements of the moments before are lost.
	reject       string
	pubrels      map[uint16]int
	subscribed   []string
	unsubscribed []string
	will         *packets.ConnectPacket
}

type downward struct {
	id       uint16
	topic    string
	payload  string
	qos      byte
	sent     bool
	released bool
	done     bool
	refused  bool // the bridge is not to take it
}

func newCloud(t *testing.T, l *ledger) *cloud {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveCloud(t, l, ln)
}

func serveCloud(t *testing.T, l *ledger, ln net.Listener) *cloud {
	c := &cloud{t: t, ledger: l, Listener: ln, done: make(chan struct{}), received: make(map[uint16]bool),
		topics: make(map[string][]string), seen: make(map[uint16]bool), pubrels: make(map[uint16]int)}
	go c.serve()
	t.Cleanup(func() {
		ln.Close()
		c.cut()
		<-c.done
	})
	return c
}

// speak says how the cloud speaks, before anybody connects.
func (c *cloud) speak(d dialect) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dialect = d
}

func (c *cloud) url() string { return "mqtt://" + c.Addr().String() }

func (c *cloud) serve() {
	defer close(c.done)
	for {
		conn, err := c.Accept()
		if err != nil {
			return
		}
		c.handle(conn) // one at a time: there is one client
	}
}

// cut closes the connection of the moment, if any.
func (c *cloud) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.Close()
	}
}

var errCut = errors.New("cut")

func (c *cloud) handle(conn net.Conn) {
	c.mu.Lock()
	c.conn = conn
	c.connections++
	budget := -1
	if len(c.cuts) > 0 {
		budget, c.cuts = c.cuts[0], c.cuts[1:]
	}
	c.inFlight = 0
	onCut := c.onCut
	c.mu.Unlock()
	s := &cloudConn{cloud: c, Conn: conn, buf: bufio.NewReader(conn), budget: budget}
	err := s.run()
	if tcp, ok := conn.(*net.TCPConn); ok && errors.Is(err, errCut) {
		tcp.SetLinger(0)
	}
	conn.Close()
	if errors.Is(err, errCut) && onCut != nil {
		onCut()
	}
}

// A cloudConn is one connection. All its packets go through count.
type cloudConn struct {
	*cloud
	net.Conn
	buf    *bufio.Reader
	held   []packets.ControlPacket // answers that wait for a pause, see reject
	budget int                     // -1: without end
}

func (c *cloudConn) count() error {
	if c.budget == 0 {
		return errCut
	}
	if c.budget > 0 {
		c.budget--
	}
	return nil
}

func (c *cloudConn) send(p packets.ControlPacket) error {
	if err := c.count(); err != nil {
		return err
	}
	c.Conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	return c.dialect.write(c.Conn, p)
}

func (c *cloudConn) run() error {
	p, err := c.dialect.read(c.buf)
	if err != nil {
		return err
	}
	if err := c.count(); err != nil {
		return err
	}
	connect, ok := p.(*packets.ConnectPacket)
	if !ok || connect.CleanSession || connect.ProtocolVersion != 4 {
		c.t.Errorf("the first packet is %v", p)
		return io.EOF
	}
	c.mu.Lock()
	ack := packets.NewControlPacket(packets.Connack).(*packets.ConnackPacket)
	ack.SessionPresent = c.session
	c.session = true
	if connect.WillFlag {
		c.will = connect
	}
	for _, d := range c.down {
		d.sent = false
	}
	c.mu.Unlock()
	if err := c.send(ack); err != nil {
		return err
	}
	for {
		if err := c.sendDown(); err != nil {
			return err
		}
		c.Conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) // then look for new messages
		_, err := c.buf.Peek(1)
		if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
			for _, p := range c.held {
				if err := c.send(p); err != nil {
					return err
				}
			}
			c.held = nil
			continue
		}
		c.Conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		p, err := c.dialect.read(c.buf)
		if err != nil {
			return err
		}
		if err := c.count(); err != nil {
			return err
		}
		if err := c.take(p); err != nil {
			return err
		}
	}
}

// sendDown sends what waits for the bridge.
func (c *cloudConn) sendDown() error {
	c.mu.Lock()
	var due []packets.ControlPacket
	for _, d := range c.down {
		if d.sent || d.done || len(c.subscribed) == 0 {
			continue
		}
		if d.sent = true; d.released {
			due = append(due, ack(packets.Pubrel, d.id))
			continue
		}
		p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
		p.TopicName, p.Payload, p.Qos, p.MessageID = d.topic, []byte(d.payload), d.qos, d.id
		due = append(due, p)
	}
	c.mu.Unlock()
	for _, p := range due {
		if err := c.send(p); err != nil {
			return err
		}
	}
	return nil
}

// ack returns a packet that has no more than an identifier.
func ack(kind byte, id uint16) packets.ControlPacket {
	p := packets.NewControlPacket(kind)
	switch p := p.(type) {
	case *packets.PubackPacket:
		p.MessageID = id
	case *packets.PubrecPacket:
		p.MessageID = id
	case *packets.PubrelPacket:
		p.MessageID = id
	case *packets.PubcompPacket:
		p.MessageID = id
	}
	return p
}

// take checks one packet of the bridge and answers it.
func (c *cloudConn) take(p packets.ControlPacket) error {
	c.mu.Lock()
	silent, hold := c.silent, c.reject != ""
	reply, err := c.judge(p)
	c.mu.Unlock()
	if err != nil || reply == nil || silent {
		return err
	}
	if hold {
		c.held = append(c.held, reply)
		return nil
	}
	return c.send(reply)
}

func (c *cloudConn) judge(p packets.ControlPacket) (reply packets.ControlPacket, err error) {
	switch p := p.(type) {
	case *packets.PublishPacket:
		return c.judgePublish(p)
	case *packets.PubrelPacket:
		if s, ok := c.ledger.durable(p.MessageID); ok && s != released && !c.ledger.strange {
			c.t.Errorf("PUBREL %d left before its PUBREC was durable", p.MessageID)
		}
		c.pubrels[p.MessageID]++
		delete(c.received, p.MessageID)
		return ack(packets.Pubcomp, p.MessageID), nil
	case *packets.PubackPacket:
		return nil, c.finishDown(p.MessageID, 1)
	case *packets.PubrecPacket:
		d := c.downward(p.MessageID)
		if d == nil || d.qos != 2 {
			c.t.Errorf("PUBREC %d for nothing", p.MessageID)
			return nil, nil
		}
		if !d.released && !d.refused && !c.ledger.durablyReceived(p.MessageID) {
			c.t.Errorf("PUBREC %d left before the message was durable", p.MessageID)
		}
		d.released = true
		return ack(packets.Pubrel, p.MessageID), nil
	case *packets.PubcompPacket:
		if c.ledger.durablyReceived(p.MessageID) {
			c.t.Errorf("PUBCOMP %d left before the identifier was forgotten", p.MessageID)
		}
		return nil, c.finishDown(p.MessageID, 2)
	case *packets.SubscribePacket:
		if c.seen[p.MessageID] || c.received[p.MessageID] {
			c.t.Errorf("[MQTT-2.3.1-2] SUBSCRIBE uses identifier %d, which is in flight", p.MessageID)
		}
		c.subscribed = p.Topics
		suback := packets.NewControlPacket(packets.Suback).(*packets.SubackPacket)
		suback.MessageID, suback.ReturnCodes = p.MessageID, p.Qoss
		return suback, nil
	case *packets.UnsubscribePacket:
		c.unsubscribed = append(c.unsubscribed, p.Topics...)
		unsuback := packets.NewControlPacket(packets.Unsuback).(*packets.UnsubackPacket)
		unsuback.MessageID = p.MessageID
		return unsuback, nil
	case *packets.PingreqPacket:
		return packets.NewControlPacket(packets.Pingresp), nil
	case *packets.DisconnectPacket:
		return nil, io.EOF
	}
	c.t.Errorf("unexpected packet %v", p)
	return nil, io.EOF
}

func (c *cloudConn) judgePublish(p *packets.PublishPacket) (packets.ControlPacket, error) {
	if p.TopicName == c.reject {
		return nil, io.EOF
	}
	if p.Qos == 0 {
		c.topics[p.TopicName] = append(c.topics[p.TopicName], string(p.Payload))
		return nil, nil
	}
	if c.seen[p.MessageID] && !p.Dup {
		c.t.Errorf("[MQTT-3.3.1-1] PUBLISH %d is sent again without DUP", p.MessageID)
	}
	c.inFlight++
	c.maxInFlight = max(c.maxInFlight, c.inFlight)
	if !c.received[p.MessageID] {
		c.topics[p.TopicName] = append(c.topics[p.TopicName], string(p.Payload))
	}
	if c.dialect.refuse != nil {
		if code := c.dialect.refuse(p); code != 0 {
			c.topics[p.TopicName] = slices.DeleteFunc(c.topics[p.TopicName], func(s string) bool { return s == string(p.Payload) })
			return refusal5(p, code), nil
		}
	}
	c.seen[p.MessageID] = true
	if c.hold || p.TopicName == c.skip {
		if p.Qos == 2 {
			c.received[p.MessageID] = true
		}
		return nil, nil
	}
	c.inFlight--
	if p.Qos == 1 {
		return ack(packets.Puback, p.MessageID), nil
	}
	c.received[p.MessageID] = true
	return ack(packets.Pubrec, p.MessageID), nil
}

func (c *cloud) downward(id uint16) *downward {
	i := slices.IndexFunc(c.down, func(d *downward) bool { return d.id == id && !d.done })
	if i < 0 {
		return nil
	}
	return c.down[i]
}

func (c *cloud) finishDown(id uint16, qos byte) error {
	d := c.downward(id)
	if d == nil || d.qos != qos {
		c.t.Errorf("the end of %d, which is not in flight at QoS %d", id, qos)
		return nil
	}
	if qos == 1 && !d.refused && !slices.Contains(c.ledger.published("local/"+d.topic), d.payload) {
		c.t.Errorf("PUBACK %d left before the message was durable", id)
	}
	d.done = true
	return nil
}

// queue puts messages for the bridge in line.
func (c *cloud) queue(topic string, qos byte, numbers ...int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range numbers {
		c.nextID++
		c.down = append(c.down, &downward{id: c.nextID, topic: topic, payload: fmt.Sprint(n), qos: qos})
	}
}

// arrived returns the payloads that came for a topic.
func (c *cloud) arrived(topic string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.topics[topic])
}
