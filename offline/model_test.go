package offline

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// A model is what a store must be like, made of plain maps.
type model struct {
	sessions map[string]*modelSession
	retained map[string]packet.Publish
}

type modelSession struct {
	opened   session.Opened
	closed   bool
	sent     uint64
	subs     map[string]session.Subscribed
	received map[uint16]bool
	queue    []*modelMessage
	next     uint64 // of what is durable
	last     uint64 // position given to anything
}

type modelMessage struct {
	queued session.Queued
	stage  session.Stage
}

// apply does what a change says. Positions and incarnations have been given by the store.
func (m *model) apply(change session.Change) {
	switch c := change.(type) {
	case *session.Opened:
		s := m.sessions[c.Client]
		if s == nil {
			s = &modelSession{subs: map[string]session.Subscribed{}, received: map[uint16]bool{}, next: 1}
			m.sessions[c.Client] = s
		}
		s.opened, s.closed = *c, false
	case *session.Removed:
		delete(m.sessions, c.Client)
	case *session.Retained:
		if len(c.Message.Publish.Payload) == 0 {
			delete(m.retained, c.Message.Publish.Topic)
		} else {
			m.retained[c.Message.Publish.Topic] = c.Message.Publish
		}
	case *session.Enqueued:
		for _, to := range c.To {
			if s := m.sessions[to.Client]; s != nil && to.Position != 0 {
				s.next = to.Position + 1
				s.queue = append(s.queue, &modelMessage{queued: session.Queued{
					Position: to.Position, QoS: to.QoS, Retain: to.Retain,
					SubscriptionIDs: to.SubscriptionIDs, Share: to.Share, Message: c.Message,
				}})
			}
		}
	default:
		m.applyToSession(change)
	}
}

func (m *model) applyToSession(change session.Change) {
	client := reflect.ValueOf(change).Elem().FieldByName("Client").String()
	s := m.sessions[client]
	if s == nil {
		return
	}
	switch c := change.(type) {
	case *session.Closed:
		s.closed, s.sent, s.opened.Will = true, c.Sent, nil
		if o := s.opened.Owner; o != nil {
			s.opened.Owner = &session.Owner{User: o.User}
		}
	case *session.Subscribed:
		s.subs[c.Subscription.Filter] = *c
	case *session.Unsubscribed:
		delete(s.subs, c.Filter)
	case *session.Received:
		s.received[c.ID] = true
	case *session.Released:
		delete(s.received, c.ID)
	case *session.Advanced:
		for _, m := range s.queue {
			if m.queued.Position == c.Position && c.Stage > m.stage {
				m.stage = c.Stage
			}
		}
		for len(s.queue) > 0 && s.queue[0].stage == session.Done {
			s.queue = s.queue[1:]
		}
	}
}

// restored is what Restore must replay of a session.
func (s *modelSession) restored() []session.Change {
	opened := s.opened
	changes := []session.Change{&opened}
	for _, filter := range slices.Sorted(maps.Keys(s.subs)) {
		sub := s.subs[filter]
		changes = append(changes, &sub)
	}
	if s.closed {
		changes = append(changes, &session.Closed{Client: opened.Client, Sent: s.sent})
	}
	sum := &session.Summary{Client: opened.Client, Head: s.next, Next: s.next, Stages: map[uint64]session.Stage{}}
	if len(s.queue) > 0 {
		sum.Head = s.queue[0].queued.Position
	}
	for _, m := range s.queue {
		sum.Messages++
		sum.Bytes += int64(m.queued.Message.Publish.Size(packet.V5))
		if m.stage != session.Pending {
			sum.Stages[m.queued.Position] = m.stage
		}
	}
	sum.Received = slices.Sorted(maps.Keys(s.received))
	return append(changes, sum)
}

// A machine applies the same random changes to a store and to a model.
type machine struct {
	t     *rapid.T
	path  string
	store *Store
	model model
	fail  atomic.Int32 // how the next commit fails: failBefore, failAfter
	n     int
}

const (
	failBefore = 1 // nothing was written
	failAfter  = 2 // everything was written, but the flush of the meta page failed
)

func (m *machine) open() {
	var err error
	m.store, err = Open(m.path, Options{TelemetryCommit: time.Hour, sweepAt: 3, commit: m.commit})
	if err != nil {
		m.t.Fatal(err)
	}
	for _, s := range m.model.sessions {
		s.last = s.next - 1
	}
}

func (m *machine) commit(db *bolt.DB, fn func(*bolt.Tx) error) error {
	switch m.fail.Swap(0) {
	case failBefore:
		return syscall.EIO
	case failAfter:
		if err := commit(db, fn); err != nil {
			return err
		}
		return syscall.EIO
	}
	return commit(db, fn)
}

// longFilter is too long for a key; it comes last, like its hash.
var longFilter = strings.Repeat("~", 1500)

var (
	genClient = rapid.SampledFrom([]string{"a", "b", "bridge"})
	genFilter = rapid.SampledFrom([]string{"#", "a/+", "$share/g/x", longFilter})
	genTopic  = rapid.SampledFrom([]string{"t", "greenhouse/air/temperature", "ä/ö"})
)

func (m *machine) message() *session.Message {
	m.n++
	p := packet.Publish{
		QoS: packet.QoS(rapid.IntRange(1, 2).Draw(m.t, "qos")), Topic: genTopic.Draw(m.t, "topic"),
		Payload: fmt.Appendf(make([]byte, rapid.SampledFrom([]int{0, 0, 100, 6000}).Draw(m.t, "size")), "message %d", m.n),
	}
	if rapid.Bool().Draw(m.t, "properties") {
		p.Properties = &packet.PublishProperties{
			MessageExpiry: 60, HasMessageExpiry: true, User: []packet.UserProperty{{Name: "n", Value: "v"}},
		}
	}
	return &session.Message{Publish: p, At: time.Now()}
}

func (m *machine) targets() (targets []*session.Target) {
	for _, client := range rapid.SliceOfNDistinct(genClient, 1, 3, rapid.ID).Draw(m.t, "to") {
		to := &session.Target{Client: client, QoS: 1, Retain: rapid.Bool().Draw(m.t, "retain")}
		if s := m.model.sessions[client]; s != nil {
			to.Incarnation = s.opened.Incarnation
		}
		if rapid.Bool().Draw(m.t, "ids") {
			to.SubscriptionIDs = []uint32{1, 268435455}
		}
		to.Share = rapid.SampledFrom([]string{"", "$share/g/x", "$share/g/" + longFilter}).Draw(m.t, "share")
		targets = append(targets, to)
	}
	return targets
}

// change draws one change. Removed and Opened are drawn alone, because a test must know an
// incarnation before it can name it.
func (m *machine) change() session.Change {
	client := genClient.Draw(m.t, "client")
	switch rapid.IntRange(0, 12).Draw(m.t, "kind") {
	case 0, 1, 2, 3:
		return &session.Enqueued{Message: m.message(), To: m.targets()}
	case 4, 5, 6, 7:
		position := uint64(rapid.IntRange(1, 20).Draw(m.t, "position"))
		if s := m.model.sessions[client]; s != nil && len(s.queue) > 0 {
			position = rapid.SampledFrom(s.queue).Draw(m.t, "message").queued.Position
		}
		return &session.Advanced{Client: client, Position: position, Stage: session.Stage(rapid.IntRange(1, 2).Draw(m.t, "stage"))}
	case 8:
		return &session.Subscribed{Client: client, ID: 7, Subscription: packet.Subscription{
			Filter: genFilter.Draw(m.t, "filter"), QoS: 2, NoLocal: rapid.Bool().Draw(m.t, "nl"), RetainHandling: 2,
			RetainAsPublished: rapid.Bool().Draw(m.t, "rap"),
		}}
	case 9:
		return &session.Unsubscribed{Client: client, Filter: genFilter.Draw(m.t, "filter")}
	case 10:
		return &session.Received{Client: client, ID: uint16(rapid.IntRange(1, 4).Draw(m.t, "id"))}
	case 11:
		return &session.Released{Client: client, ID: uint16(rapid.IntRange(1, 4).Draw(m.t, "id"))}
	}
	retained := m.message()
	if rapid.Bool().Draw(m.t, "remove") {
		retained.Publish.Payload = nil
	}
	return &session.Retained{Message: retained}
}

func (m *machine) life() session.Change {
	client := genClient.Draw(m.t, "client")
	switch rapid.IntRange(0, 3).Draw(m.t, "kind") {
	case 0:
		return &session.Removed{Client: client}
	case 1:
		return &session.Closed{Client: client, At: time.Now(), Sent: rapid.SampledFrom([]uint64{0, 1, 1 << 40}).Draw(m.t, "sent")}
	}
	o := &session.Opened{Client: client, Expiry: uint32(rapid.IntRange(0, 1<<30).Draw(m.t, "expiry")), Version: packet.V311}
	if rapid.Bool().Draw(m.t, "will") {
		o.Will = &packet.Will{Topic: "will", Payload: []byte("gone"), QoS: 1, Retain: true, Delay: 5}
	}
	if rapid.Bool().Draw(m.t, "owned") {
		o.Owner = &session.Owner{User: rapid.SampledFrom([]string{"", "ann", "ben"}).Draw(m.t, "user")}
		if o.Will != nil {
			o.Owner.Client, o.Owner.Listener, o.Owner.By = client, "lan", "file"
			o.Owner.Groups, o.Owner.Super = []string{"night", ""}, rapid.Bool().Draw(m.t, "super")
			o.Owner.Addr, o.Owner.Certificate, o.Owner.Rules = "2001:db8::7", []byte{0x30, 0}, []byte(`[{}]`)
		}
	}
	return o
}

// submit hands a unit to the store. fails tells how its commit fails, 0 if it does not.
func (m *machine) submit(changes []session.Change, fails int32) {
	if fails != 0 {
		if err := commitNow(m.store); err != nil { // nothing else is to be in the batch
			m.t.Fatal(err)
		}
		m.fail.Store(fails)
	}
	lazy := fails == 0 && rapid.Bool().Draw(m.t, "lazy")
	done := make(chan error, 1)
	m.store.Submit(changes, lazy, func(err error) { done <- err })
	for _, change := range changes {
		e, ok := change.(*session.Enqueued)
		if !ok {
			continue
		}
		for _, to := range e.To {
			s := m.model.sessions[to.Client]
			if (s == nil) != (to.Position == 0) {
				m.t.Fatalf("position %d for session %q, which exists: %t", to.Position, to.Client, s != nil)
			}
			if s != nil && to.Position != s.last+1 {
				m.t.Fatalf("position %d follows %d", to.Position, s.last)
			}
			if s != nil {
				s.last++
			}
		}
	}
	if fails == 0 {
		for _, change := range changes {
			m.model.apply(change)
		}
		if lazy {
			return
		}
	}
	if err := <-done; (err != nil) != (fails != 0) || err != nil && !errors.Is(err, ErrDisk) {
		m.t.Fatalf("failure %d: done(%v)", fails, err)
	}
}

// owe hands units to the store that nobody waits for, and whose commits fail: what needs no room is there
// when one succeeds.
func (m *machine) owe(unit func(*rapid.T) []session.Change) {
	if err := commitNow(m.store); err != nil { // nothing else is to be in the batch
		m.t.Fatal(err)
	}
	for range rapid.IntRange(1, 5).Draw(m.t, "units") {
		changes := unit(m.t)
		m.store.Submit(changes, true, nil)
		m.fail.Store(int32(rapid.IntRange(failBefore, failAfter).Draw(m.t, "how")))
		if err := commitNow(m.store); !errors.Is(err, ErrDisk) {
			m.t.Fatalf("done(%v)", err)
		}
		lost := false
		for _, change := range changes {
			switch c := change.(type) {
			case *session.Enqueued:
				lost = true
				for _, to := range c.To {
					if s := m.model.sessions[to.Client]; s != nil {
						s.last++
					}
				}
			case *session.Retained:
				lost = lost || len(c.Message.Publish.Payload) > 0
			}
		}
		for i := 0; i < len(changes) && !lost; i++ {
			m.model.apply(changes[i])
		}
	}
}

// compare checks that store and model are the same.
func (m *machine) compare() {
	if err := commitNow(m.store); err != nil {
		m.t.Fatal(err)
	}
	var want []session.Change
	for _, client := range slices.Sorted(maps.Keys(m.model.sessions)) {
		want = append(want, m.model.sessions[client].restored()...)
	}
	got := map[string]packet.Publish{}
	err := m.store.Restore(func(change session.Change) {
		if r, ok := change.(*session.Retained); ok {
			got[r.Message.Publish.Topic] = r.Message.Publish
			return
		}
		if c, ok := change.(*session.Closed); ok {
			if since := time.Since(c.At); since < -time.Second || since > time.Minute {
				m.t.Errorf("closed %v ago", since)
			}
			c.At = time.Time{}
		}
		if len(want) == 0 {
			m.t.Fatalf("restored too much: %+v", change)
		}
		if s, ok := change.(*session.Summary); ok {
			w := want[0].(*session.Summary)
			if len(s.Received) == 0 && len(w.Received) == 0 {
				s.Received, w.Received = nil, nil
			}
			if !s.Expiring && slices.ContainsFunc(m.model.sessions[s.Client].queue, expires) {
				m.t.Fatalf("%s: nothing is said to expire", s.Client)
			}
			s.Expiring = false                                               // it may be true without need
			maps.DeleteFunc(s.Stages, func(p uint64, _ session.Stage) bool { // of a position that is missing
				return !slices.ContainsFunc(m.model.sessions[s.Client].queue, func(q *modelMessage) bool { return q.queued.Position == p })
			})
		}
		if !reflect.DeepEqual(change, want[0]) {
			m.t.Fatalf("restored %T\n%+v\nwant\n%+v", change, change, want[0])
		}
		want = want[1:]
	})
	if err != nil || len(want) > 0 {
		m.t.Fatalf("restore: %v; %d changes are missing", err, len(want))
	}
	if !reflect.DeepEqual(got, m.model.retained) {
		m.t.Fatalf("retained\n%v\nwant\n%v", got, m.model.retained)
	}
	for client, s := range m.model.sessions {
		m.compareQueue(client, s)
	}
}

func (m *machine) compareQueue(client string, s *modelSession) {
	got, err := m.store.Read(client, 0, 1000)
	if err != nil {
		m.t.Fatal(err)
	}
	want := slices.DeleteFunc(slices.Clone(s.queue), func(q *modelMessage) bool { return q.stage == session.Done })
	if n, _, _ := m.store.Count(client); int(n) != len(want) || len(got) != len(want) {
		m.t.Fatalf("%q: read %d, counted %d, want %d", client, len(got), n, len(want))
	}
	for i, q := range got {
		w := want[i].queued
		if elapsed := time.Since(q.Message.At) + q.Message.Waited - time.Since(w.Message.At); elapsed.Abs() > 20*time.Millisecond {
			m.t.Fatalf("%q: message %d is older by %v", client, w.Position, elapsed)
		}
		if !reflect.DeepEqual(q.Message.Publish, w.Message.Publish) {
			m.t.Fatalf("%q: message %d\n%+v\nwant\n%+v", client, w.Position, q.Message.Publish, w.Message.Publish)
		}
		q.Message, w.Message = nil, nil
		if !reflect.DeepEqual(q, w) {
			m.t.Fatalf("%q: %+v\nwant %+v", client, q, w)
		}
	}
}

// TestModel applies random changes, some of whose commits fail, to a store and to maps, with
// restarts in between, and compares the two.
func TestModel(t *testing.T) {
	folder := t.TempDir()
	var runs atomic.Int32
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{t: t, path: filepath.Join(folder, fmt.Sprint(runs.Add(1)))}
		m.model = model{sessions: map[string]*modelSession{}, retained: map[string]packet.Publish{}}
		m.open()
		defer func() { _ = m.store.Close(); _ = os.Remove(m.path) }()
		unit := func(t *rapid.T) (changes []session.Change) {
			m.t = t
			if rapid.IntRange(0, 3).Draw(t, "life") == 0 {
				return []session.Change{m.life()}
			}
			for range rapid.IntRange(1, 3).Draw(t, "changes") {
				changes = append(changes, m.change())
			}
			return changes
		}
		t.Repeat(map[string]func(*rapid.T){
			"submit":  func(t *rapid.T) { m.submit(unit(t), 0) },
			"submit2": func(t *rapid.T) { m.submit(unit(t), 0) },
			"fail":    func(t *rapid.T) { m.submit(unit(t), int32(rapid.IntRange(failBefore, failAfter).Draw(t, "how"))) },
			"owe":     func(t *rapid.T) { m.t = t; m.owe(unit) },
			"compare": func(t *rapid.T) { m.t = t; m.compare() },
			"reopen": func(t *rapid.T) {
				m.t = t
				if err := m.store.Close(); err != nil && !errors.Is(err, ErrDisk) {
					t.Fatal(err)
				}
				if r, err := Check(m.path); err != nil || r.Problems != nil {
					t.Fatalf("check: %v %q", err, r.Problems)
				}
				m.open()
				m.compare()
			},
		})
	})
}

func expires(q *modelMessage) bool {
	_, ever := q.queued.Message.Expires()
	return ever
}

// What nobody waits for, and a commit did not take, does not undo what was committed after it.
func TestOwedIsOvertaken(t *testing.T) {
	var fails atomic.Int64
	s := open(t, storePath(t), Options{commit: func(db *bolt.DB, fn func(*bolt.Tx) error) error {
		return commit(db, func(tx *bolt.Tx) error {
			err := fn(tx)
			if err == nil && fails.Add(-1) >= 0 {
				err = errors.New("nobody knows whose fault it is")
			}
			return err
		})
	}})
	openSession(t, s, "a")
	must(t, commitNow(s, &session.Received{Client: "a", ID: 5}))
	fails.Store(2) // the batch, and the first half of it
	s.Submit([]session.Change{&session.Released{Client: "a", ID: 5}}, true, nil)
	must(t, commitNow(s, &session.Received{Client: "a", ID: 5}))
	must(t, commitNow(s, &session.Subscribed{Client: "a", Subscription: packet.Subscription{Filter: "x"}})) // and what is owed
	if f, err := s.Figures(); err != nil || f.Received != 1 {
		t.Errorf("%d identifiers, %v: that of a message whose PUBREC has left is not known any more", f.Received, err)
	}
}
