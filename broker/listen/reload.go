package listen

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"gateway/broker/watch"
)

// A keyring has the keys of a listener as its files have them now.
//
// Each handshake takes the current keys. A session ticket belongs to the keys by which it was
// made, since each tls.Config has ticket keys of its own: what was agreed on under other CAs or
// other lists is not resumed.
type keyring struct {
	files   Files
	current atomic.Pointer[keys]
	loaded  string    // the state of the files that was last loaded, or tried
	seen    string    // at the last look
	since   time.Time // when it was first seen
}

// lookEvery is for how long changed files have to rest; and how often they are looked at where the
// kernel does not tell of changes.
const lookEvery = 400 * time.Millisecond

func newKeyring(f Files) (*keyring, error) {
	if f.Every == 0 {
		f.Every = lookEvery
	}
	r := &keyring{files: f, loaded: watch.State(f.names()...)}
	k, err := f.load()
	if err != nil {
		return nil, err
	}
	r.seen = r.loaded
	r.current.Store(k)
	return r, nil
}

// names returns those of the files.
func (f *Files) names() []string {
	return slices.DeleteFunc([]string{f.Cert, f.Key, f.ClientCA, f.CRL}, func(name string) bool { return name == "" })
}

// A change is what a look at the files has found.
type change byte

const (
	unchanged change = iota
	restless         // they have changed a moment ago: one has to look again
	changed          // what they have now is in force
)

// look loads the files if they have changed and have been as they are now for a while: a certificate
// and its key are not replaced at the same instant.
func (r *keyring) look() (change, error) {
	if state := watch.State(r.files.names()...); state != r.seen {
		r.seen, r.since = state, time.Now()
	}
	switch {
	case r.seen == r.loaded:
		return unchanged, nil
	case time.Since(r.since) < r.files.Every:
		return restless, nil
	}
	r.loaded = r.seen
	k, err := r.files.load()
	if err != nil {
		return unchanged, err
	}
	r.current.Store(k)
	return changed, nil
}

// watch follows changes of the files until ctx ends.
func (l *Listener) watch(ctx context.Context) {
	watch.Files(ctx, l.keys.files.Every, l.keys.files.names(), func() (again bool) {
		found, err := l.keys.look()
		switch {
		case err != nil:
			l.o.Log.Error("the changed files of a TLS listener cannot be used: what was loaded before stays in force",
				"listener", l.o.Name, "error", err)
		case found == changed:
			k := l.keys.current.Load()
			l.o.Log.Info("the files of a TLS listener have changed and are in force", "listener", l.o.Name,
				"certificate_until", k.config.Certificates[0].Leaf.NotAfter.Format(time.DateOnly), "revoked", len(k.revoked))
			l.warn(k)
			l.part(k)
		}
		return found == restless
	})
}

// warn tells of what is wrong with the keys, though they are in force.
func (l *Listener) warn(k *keys) {
	for _, issuer := range k.stale {
		l.o.Log.Warn("a revocation list is past its time and stays in force: certificates revoked since are let in",
			"listener", l.o.Name, "issuer", issuer, "remedy", "put a newer list into "+l.o.TLS.CRL)
	}
}
