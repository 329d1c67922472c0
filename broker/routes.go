package broker

import (
	"strings"
	"sync"

	"gateway/broker/packet"
	"gateway/broker/session"
	"gateway/broker/topic"
)

// routes know which sessions subscribe to what, and the retained messages. Publishers read them
// side by side.
type routes struct {
	mu       sync.RWMutex
	subs     topic.Tree[*Session, subscription]
	shared   topic.Tree[*group, struct{}]
	groups   map[string]*group // by the filter of the subscription
	bySender bool              // see Options.ShareBySender
	retained topic.Names[*session.Message]
	bytes    int       // of the retained messages, see retainedSize
	lapses   lapseHeap // of the retained messages

	subscriptions int
	filters       int // bytes of the filters of the subscriptions, and of their levels
}

// match finds the sessions that a message goes to.
func (t *routes) match(r *routing) {
	t.mu.RLock()
	t.subs.Match(r.p.Topic, r.visit)
	t.shared.Match(r.p.Topic, r.visitGroup)
	t.mu.RUnlock()
}

// keep makes m the retained message of its topic, or removes that if m has no payload
// [MQTT-3.3.1-5], [MQTT-3.3.1-6]. It reports false if all of them would then have more bytes than
// most, and changes nothing.
func (t *routes) keep(m *session.Message, most int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	bytes := t.bytes
	if old, ok := t.retained.Get(m.Publish.Topic); ok {
		bytes -= retainedSize(old)
	}
	if len(m.Publish.Payload) == 0 {
		t.retained.Delete(m.Publish.Topic)
		t.bytes = bytes
		return true
	}
	bytes += retainedSize(m)
	// The first level of a name is in its size.
	more := max(t.retained.Levels()-t.retained.Len(), 0) + strings.Count(m.Publish.Topic, "/")
	if most-bytes < retainedLevel*more {
		return false
	}
	t.retained.Set(m.Publish.Topic, m)
	t.bytes = bytes
	noteLapse(t, m)
	return true
}

// retainedLevel is what a level of a topic costs that no other retained message has, about.
const retainedLevel = 384

// retainedSize returns what a retained message costs in memory, about.
func retainedSize(m *session.Message) int {
	const overhead = 512                                               // the message beside its bytes, and its place among the topics
	return overhead + m.Publish.Size(packet.V5) + len(m.Publish.Topic) // which is kept by its levels too
}

// keeps reports whether m is still the retained message of its topic.
func (t *routes) keeps(m *session.Message) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	now, _ := t.retained.Get(m.Publish.Topic)
	return now == m
}

// kept returns the retained messages that a filter matches.
func (t *routes) kept(filter string) (found []*session.Message) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	t.retained.Match(filter, func(_ string, m *session.Message) bool {
		found = append(found, m)
		return true
	})
	return found
}

// count returns how many subscriptions, filters of shared ones, and retained messages there are, and
// the bytes of these.
func (t *routes) count() (subscriptions, shared, retained, bytes int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.subscriptions, t.shared.Len(), t.retained.Len(), t.bytes
}

// holds reports whether another subscription would keep them all within most bytes, about.
func (t *routes) holds(filter string, most int) bool {
	const overhead, level = 256, 160
	t.mu.RLock()
	defer t.mu.RUnlock()
	n := t.subscriptions + 1
	levels := t.subs.Levels() + t.shared.Levels() + strings.Count(filter, "/") + 1
	return most-overhead*n-level*levels >= t.filters+2*len(filter)
}

// subscribe adds a subscription to a session and to the routes, unless the session has ended.
// It returns what was there before.
func (t *routes) subscribe(n *Session, f packet.Subscription, id uint32) (old subscription, existed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.add(n, f, id)
}

// add is subscribe with the routes locked.
func (t *routes) add(n *Session, f packet.Subscription, id uint32) (old subscription, existed bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended || n.leaving != nil {
		return old, false
	}
	if existed = n.subs.add(f.Filter); !existed {
		t.subscriptions++
		t.filters += 2 * len(f.Filter)
	}
	old = put(t, f.Filter, n, newSubscription(f, id))
	return old, existed
}

// put adds a subscription to those that publishers see, and returns the one that it takes the place of. The
// routes and the session are locked.
func put(t *routes, filter string, n *Session, sub subscription) (old subscription) {
	if _, rest, shared, _ := topic.ParseShared(filter); shared {
		n.shares = true
		return t.share(filter, rest, member{n, sub})
	}
	old, _ = t.subs.Set(filter, n, sub)
	return old
}

// takeBack makes a subscription again what it was before one that could not be stored, unless it has been
// changed since.
func takeBack(t *routes, n *Session, u unstored) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended || !n.subs.has(u.filter) {
		return
	}
	if now := put(t, u.filter, n, u.old); now != u.sub {
		put(t, u.filter, n, now)
	} else if !u.existed {
		n.subs.remove(u.filter)
		t.remove(u.filter, n)
	}
}

// An unstored subscription is not in the store yet, and perhaps never will be.
type unstored struct {
	filter   string
	sub, old subscription
	existed  bool // and was old
}

// unsubscribe removes a subscription from a session and from the routes.
func (t *routes) unsubscribe(n *Session, filter string) (existed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.subs.remove(filter)
	return t.remove(filter, n)
}

// move moves subscriptions, which are not shared, from one session to another, so that no message
// is matched by both or neither. What the one does not have, the other gets all the same.
func (t *routes) move(from, to *Session, subs []packet.Subscription) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range subs {
		from.mu.Lock()
		from.subs.remove(f.Filter)
		from.mu.Unlock()
		t.remove(f.Filter, from)
		t.add(to, f, 0)
	}
}

// remove removes a subscription. The routes are locked.
func (t *routes) remove(filter string, n *Session) (existed bool) {
	if isShared(filter) {
		existed = t.unshare(filter, n)
	} else {
		existed = t.subs.Delete(filter, n)
	}
	if existed {
		t.subscriptions--
		t.filters -= 2 * len(filter)
	}
	return existed
}

// unroute removes all subscriptions of a session that has ended.
func (t *routes) unroute(n *Session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, filter := range n.subs {
		t.remove(filter, n)
	}
	n.subs = nil
}
