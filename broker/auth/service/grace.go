package service

import (
	"bytes"
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"slices"
	"sync"
	"time"

	"gateway/broker/auth/ledger"
	"gateway/broker/auth/recent"
	"gateway/broker/auth/template"
)

// Bounds of what is remembered of clients that the service has accepted.
const (
	maxAccepted = 10_000 // clients
	maxGranted  = 200    // requests of one client
	// rounds makes it slow to try passwords on a copy of the file: 2 ms on a PC, 12 ms on a small
	// board. One is tried at a time.
	rounds = 4096
)

// saveEvery is how long what has changed may wait for the disk.
const saveEvery = 5 * time.Second

// ageEvery is how often it is noted how long the service has been away, for a board that does not
// know the time after its next start.
const ageEvery = time.Hour

// An acceptance is that the service has let a client in, and what it was allowed to do. It has no
// secret, only a hash from which it is slow to find one.
type acceptance struct {
	Client  string        `json:"client"`
	User    string        `json:"user"`
	Salt    []byte        `json:"salt"`
	Hash    []byte        `json:"hash"` // of all that the service was shown
	At      time.Time     `json:"at"`
	Used    time.Duration `json:"used,omitempty"` // of the grace, at the least, whatever the clock says
	Super   bool          `json:"super,omitempty"`
	Rules   []rule        `json:"rules,omitempty"`
	Expires time.Time     `json:"expires,omitzero"`
	Granted []string      `json:"granted,omitempty"` // hashes of requests

	proof key       // of what the service was shown, in this process; zero: not known yet
	since time.Time // when Used was true
	saved time.Time // At as the disk has it
}

// age is how long ago the service accepted the client: by the clock, or by the time that the gateway
// has run since, if that is more. A clock that has not been set yet makes nobody young.
func (a *acceptance) age(now time.Time) time.Duration {
	return max(now.Sub(a.At), a.Used+time.Since(a.since))
}

type who struct{ client, user string }

// A grace remembers whom the service has accepted, for when it cannot be asked.
type grace struct {
	period time.Duration
	ledger *ledger.Ledger[acceptance]
	now    func() time.Time // the time of day

	hashing chan struct{} // of size 1: one hash at a time, the others wait

	mu       sync.Mutex
	accepted *recent.Table[who, *acceptance]
	changed  bool
}

// newGrace reads what was remembered.
func newGrace(path string, period time.Duration, now func() time.Time) (*grace, error) {
	g := &grace{
		period: period, now: now, ledger: ledger.New[acceptance](path, "accepted clients"),
		hashing: make(chan struct{}, 1), accepted: recent.New[who, *acceptance](maxAccepted),
	}
	all, err := g.ledger.Read()
	for _, a := range all {
		a.since, a.saved = time.Now(), a.At
		g.accepted.Put(who{a.Client, a.User}, &a)
	}
	return g, err
}

// shown is what is hashed: the values that the questions of a login use.
func shown(v *template.Values, qs ...*question) []byte {
	var b bytes.Buffer
	for _, q := range qs {
		if q == nil {
			continue
		}
		for _, i := range q.uses {
			write(&b, v[i])
		}
	}
	return b.Bytes()
}

// hash hashes, when it is its turn. With a context that is over it is only if nobody else's is.
func (g *grace) hash(ctx context.Context, salt, what []byte) ([]byte, error) {
	select {
	case g.hashing <- struct{}{}:
	default:
		select {
		case g.hashing <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer func() { <-g.hashing }()
	return pbkdf2.Key(sha256.New, string(what), salt, rounds, sha256.Size)
}

// accept notes that the service has let a client in. proof stands for what it was shown. When there
// is no time for the hash, it is noted at a later login.
func (g *grace) accept(ctx context.Context, w who, proof key, what []byte, a answer) {
	known, same, err := g.find(ctx, w, proof, what)
	if err != nil {
		return
	}
	next := &acceptance{Client: w.client, User: w.user}
	if same {
		next.Salt, next.Hash = known.Salt, known.Hash
	} else {
		salt := make([]byte, 16)
		_, _ = rand.Read(salt) // it never fails
		hash, err := g.hash(ctx, salt, what)
		if err != nil {
			return
		}
		next.Salt, next.Hash = salt, hash
	}
	next.At, next.since, next.proof = g.now(), time.Now(), proof
	next.Super, next.Rules, next.Expires = a.super, a.rules, a.expires
	g.mu.Lock()
	defer g.mu.Unlock()
	if same {
		next.Granted, next.saved = known.Granted, known.saved
	}
	// The disk need not know of every login.
	g.changed = g.changed || !same || next.At.Sub(known.saved) > g.period/20 || known.Super != a.super ||
		!slices.EqualFunc(known.Rules, a.rules, sameRule) || !known.Expires.Equal(a.expires)
	g.accepted.Put(w, next)
}

// find returns what is known of a client, and whether it shows now what the service has accepted. The
// error is that there is no time to find out.
func (g *grace) find(ctx context.Context, w who, proof key, what []byte) (known acceptance, same bool, err error) {
	g.mu.Lock()
	a, ok := g.accepted.Get(w)
	if ok {
		known = *a
	}
	g.mu.Unlock()
	switch {
	case !ok:
		return known, false, nil
	case known.proof == proof:
		return known, true, nil
	}
	hash, err := g.hash(ctx, known.Salt, what)
	if err != nil || subtle.ConstantTimeCompare(hash, known.Hash) == 0 {
		return known, false, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if now, ok := g.accepted.Get(w); ok && bytes.Equal(now.Hash, known.Hash) {
		now.proof = proof // the next time is quick
	}
	return known, true, nil
}

// refuse notes that the service has refused what a client showed. If that is what it accepted
// before, the client is no longer welcome; somebody else's wrong password changes nothing.
func (g *grace) refuse(ctx context.Context, w who, proof key, what []byte) {
	if _, same, _ := g.find(ctx, w, proof, what); same {
		g.purge(func(client, user string) bool { return w == who{client, user} })
	}
}

// admit tells whether a client may return while the service cannot be asked, and what it said. Wrong
// says that it is known, and shows something else than what the service has accepted.
func (g *grace) admit(ctx context.Context, w who, proof key, what []byte) (a answer, ok, wrong bool) {
	known, same, err := g.find(ctx, w, proof, what)
	if err != nil {
		return answer{}, false, false
	}
	if known.Salt == nil {
		_, _ = g.hash(ctx, nil, what) // it takes as long as for one that is known
	}
	now := g.now()
	if !same || known.age(now) > g.period || !known.Expires.IsZero() && now.After(known.Expires) {
		return answer{}, false, known.Salt != nil && !same
	}
	return answer{result: allow, super: known.Super, rules: known.Rules, expires: known.Expires}, true, false
}

// name returns a short text that stands for a request.
func name(v *template.Values, q *question) string {
	h := sha256.Sum256(shown(v, q))
	return base64.RawStdEncoding.EncodeToString(h[:12])
}

// grant notes that the service has allowed a request.
func (g *grace) grant(w who, request string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a, ok := g.accepted.Get(w)
	if !ok || slices.Contains(a.Granted, request) {
		return
	}
	g.changed = true
	if len(a.Granted) >= maxGranted {
		a.Granted = a.Granted[1:]
	}
	a.Granted = append(slices.Clone(a.Granted), request)
}

// withdraw notes that the service has refused a request.
func (g *grace) withdraw(w who, request string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a, ok := g.accepted.Get(w); ok && slices.Contains(a.Granted, request) {
		a.Granted = slices.DeleteFunc(slices.Clone(a.Granted), func(s string) bool { return s == request })
		g.changed = true
	}
}

// granted tells whether the service has allowed a request before.
func (g *grace) granted(w who, request string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	a, ok := g.accepted.Get(w)
	return ok && a.age(g.now()) <= g.period && slices.Contains(a.Granted, request)
}

// purge forgets some clients.
func (g *grace) purge(match func(client, user string) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.accepted.Len()
	g.accepted.Drop(func(w who, _ *acceptance) bool { return match(w.client, w.user) })
	g.changed = g.changed || g.accepted.Len() < before
}

// save writes what has changed. Away says that the service cannot be asked, so that time goes on.
func (g *grace) save(away bool) error {
	g.mu.Lock()
	if !g.changed && !away {
		g.mu.Unlock()
		return nil
	}
	g.changed = false
	var all []acceptance
	now := g.now()
	g.accepted.Drop(func(_ who, a *acceptance) bool {
		if a.age(now) > g.period {
			return true
		}
		a.Used, a.since, a.saved = a.Used+time.Since(a.since), time.Now(), a.At
		all = append(all, *a)
		return false
	})
	g.mu.Unlock()
	slices.SortFunc(all, func(a, b acceptance) int { return a.At.Compare(b.At) })
	err := g.ledger.Change(func([]acceptance) ([]acceptance, error) { return all, nil })
	if err != nil {
		g.mu.Lock()
		g.changed = true
		g.mu.Unlock()
	}
	return err
}

func sameRule(a, b rule) bool {
	return a.Permission == b.Permission && a.Action == b.Action && a.Topic == b.Topic && bytes.Equal(a.QoS, b.QoS) && a.Retain == b.Retain
}
