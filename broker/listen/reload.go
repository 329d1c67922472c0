package listen

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"
)

// A keyring has the keys of a listener as its files have them now.
//
// Each handshake takes the current keys. A session ticket belongs to the keys by which it was
// made, since each tls.Config has ticket keys of its own: what was agreed on under other CAs or
// other lists is not resumed.
type keyring struct {
	files   Files
	current atomic.Pointer[keys]
	loaded  string // the state of the files that was last loaded, or tried
	seen    string // at the last look
}

// lookEvery is how often the files are looked at.
const lookEvery = 400 * time.Millisecond

func newKeyring(f Files) (*keyring, error) {
	if f.Every == 0 {
		f.Every = lookEvery
	}
	r := &keyring{files: f, loaded: f.state()}
	k, err := f.load()
	if err != nil {
		return nil, err
	}
	r.seen = r.loaded
	r.current.Store(k)
	return r, nil
}

// state tells one state of the files from another. Links are followed, so that it does not matter
// how a new file comes into its place.
func (f *Files) state() string {
	var s string
	for _, name := range []string{f.Cert, f.Key, f.ClientCA, f.CRL} {
		if name == "" {
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			s += "-;"
			continue
		}
		s += fmt.Sprint(info.ModTime().UnixNano(), info.Size(), inode(info), ";")
	}
	return s
}

// look loads the files if they have changed and have been as they are now for one look: a
// certificate and its key are not replaced at the same instant.
func (r *keyring) look() (changed bool, err error) {
	state := r.files.state()
	rested := state == r.seen
	r.seen = state
	if !rested || state == r.loaded {
		return false, nil
	}
	r.loaded = state
	k, err := r.files.load()
	if err != nil {
		return false, err
	}
	r.current.Store(k)
	return true, nil
}

// watch follows changes of the files until ctx ends.
func (l *Listener) watch(ctx context.Context) {
	tick := time.NewTicker(l.keys.files.Every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		changed, err := l.keys.look()
		switch {
		case err != nil:
			l.o.Log.Error("the changed files of a TLS listener cannot be used: what was loaded before stays in force",
				"listener", l.o.Name, "error", err)
		case changed:
			k := l.keys.current.Load()
			l.o.Log.Info("the files of a TLS listener have changed and are in force", "listener", l.o.Name,
				"certificate_until", k.config.Certificates[0].Leaf.NotAfter.Format(time.DateOnly), "revoked", len(k.revoked))
			l.warn(k)
			l.part(k)
		}
	}
}

// warn tells of what is wrong with the keys, though they are in force.
func (l *Listener) warn(k *keys) {
	for _, issuer := range k.stale {
		l.o.Log.Warn("a revocation list is past its time and stays in force: certificates revoked since are let in",
			"listener", l.o.Name, "issuer", issuer, "remedy", "put a newer list into "+l.o.TLS.CRL)
	}
}
