// Package device is the registry of devices, each of which has a secret of its own.
package device

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"gateway/broker/auth/ledger"
)

// By is what auth.Identity says of those whom the registry lets in.
const By = "device"

// A Device is an entry of the registry. Its name is the user name that it logs in with, one of its
// secrets the password.
type Device struct {
	Name      string            `json:"name"`
	Secrets   []Secret          `json:"secrets"`
	ClientID  string            `json:"client_id,omitempty"` // the only one it may use; empty: any
	Addresses []netip.Prefix    `json:"addresses,omitempty"` // it may come from; none: all
	Labels    map[string]string `json:"labels,omitempty"`    // for people
	Created   time.Time         `json:"created"`
	Expires   time.Time         `json:"expires,omitzero"` // zero: never
	Disabled  bool              `json:"disabled,omitempty"`
}

// A Secret is what is known of a secret: its SHA-256. Nobody guesses one of 256 random bits,
// however fast the hash.
type Secret struct {
	Sum     Sum       `json:"sha256"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"` // zero: with the device
}

// A Sum is a SHA-256, in hexadecimal digits when it is text.
type Sum [sha256.Size]byte

// MarshalText returns the digits.
func (s Sum) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, s[:]), nil }

// UnmarshalText reads the digits.
func (s *Sum) UnmarshalText(b []byte) error {
	if len(b) != 2*len(s) {
		return fmt.Errorf("a SHA-256 has %d hexadecimal digits, not %d", 2*len(s), len(b))
	}
	_, err := hex.Decode(s[:], b)
	return err
}

// generate returns a new secret of 256 random bits: 43 letters, digits, - and _, which no
// protocol has to escape.
func generate(now time.Time) (string, Secret) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // it never fails
	text := base64.RawURLEncoding.EncodeToString(b[:])
	return text, Secret{Sum: sha256.Sum256([]byte(text)), Created: now}
}

// passed reports whether a time, if there is one, is over.
func passed(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }

// fits returns the secret that a password is. All are compared, whichever it is.
func (d *Device) fits(password []byte, now time.Time) (found Secret, ok bool) {
	sum := sha256.Sum256(password)
	for _, s := range d.Secrets {
		if subtle.ConstantTimeCompare(sum[:], s.Sum[:]) == 1 && !passed(s.Expires, now) {
			found, ok = s, true
		}
	}
	return found, ok
}

// keeps reports whether the sessions that began under old may go on under d: more secrets and
// other labels change nothing for them.
func (d *Device) keeps(old *Device) bool {
	for _, s := range old.Secrets {
		if !slices.ContainsFunc(d.Secrets, func(now Secret) bool { return now.Sum == s.Sum && now.Expires.Equal(s.Expires) }) {
			return false
		}
	}
	return d.Created.Equal(old.Created) && d.Disabled == old.Disabled && d.Expires.Equal(old.Expires) &&
		d.ClientID == old.ClientID && slices.Equal(d.Addresses, old.Addresses)
}

// Bounds of an entry.
const (
	maxName      = 128 // bytes of a name or a client identifier
	maxLabels    = 32
	maxLabel     = 128 // bytes of a label, key and value
	maxAddresses = 64
	maxSecrets   = 4 // a rotation takes the oldest
)

// check says what is wrong with a device.
func (d *Device) check() error {
	if bad := func(r rune) bool { return strings.ContainsRune("+#/", r) || !unicode.IsPrint(r) }; d.Name == "" || len(d.Name) > maxName || d.Name[0] == '$' || strings.ContainsFunc(d.Name, bad) {
		return fmt.Errorf("a name has 1 to %d bytes, printable, without + # and /, and does not begin with $: it becomes part of topics", maxName)
	}
	if len(d.ClientID) > maxName || strings.HasPrefix(d.ClientID, "$") {
		return fmt.Errorf("a client identifier has at most %d bytes and does not begin with $", maxName)
	}
	if len(d.Addresses) > maxAddresses {
		return fmt.Errorf("at most %d address ranges", maxAddresses)
	}
	if len(d.Labels) > maxLabels {
		return fmt.Errorf("at most %d labels", maxLabels)
	}
	for key, value := range d.Labels {
		if key == "" || len(key)+len(value) > maxLabel || strings.ContainsFunc(key+value, unicode.IsControl) {
			return fmt.Errorf("a label is KEY=VALUE of at most %d bytes, printable", maxLabel)
		}
	}
	return nil
}

// Errors of changes.
var (
	ErrNotFound = errors.New("no such device")
	ErrExists   = errors.New("there is a device of that name")
)

// A Registry is the file with the devices. Changes may be made by several processes.
type Registry struct {
	ledger *ledger.Ledger[Device]
}

// Open returns the registry in the file at path, which need not be there yet.
func Open(path string) *Registry { return &Registry{ledger.New[Device](path, "devices")} }

// List returns the devices by name.
func (r *Registry) List() ([]Device, error) {
	all, err := r.ledger.Read()
	slices.SortFunc(all, func(a, b Device) int { return strings.Compare(a.Name, b.Name) })
	return all, err
}

// Add adds a device and returns its secret, which nobody can find out later.
func (r *Registry) Add(d Device) (secret string, err error) {
	now := time.Now().UTC().Truncate(time.Second)
	d.Created, d.Labels = now, maps.Clone(d.Labels)
	var s Secret
	secret, s = generate(now)
	d.Secrets = []Secret{s}
	if err := d.check(); err != nil {
		return "", err
	}
	if passed(d.Expires, now) {
		return "", errors.New("it would have expired already")
	}
	err = r.ledger.Change(func(all []Device) ([]Device, error) {
		if slices.ContainsFunc(all, func(other Device) bool { return other.Name == d.Name }) {
			return nil, fmt.Errorf("%s: %w", d.Name, ErrExists)
		}
		return append(all, d), nil
	})
	if err != nil {
		return "", err
	}
	return secret, nil
}

// change changes one device.
func (r *Registry) change(name string, change func(d *Device)) error {
	return r.ledger.Change(func(all []Device) ([]Device, error) {
		i := slices.IndexFunc(all, func(d Device) bool { return d.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("%s: %w", name, ErrNotFound)
		}
		change(&all[i])
		return all, nil
	})
}

// Rotate gives a device a new secret, and returns it. Those of before go on for overlap; without
// one, the device's sessions end now.
func (r *Registry) Rotate(name string, overlap time.Duration) (secret string, err error) {
	now := time.Now().UTC().Truncate(time.Second)
	secret, s := generate(now)
	err = r.change(name, func(d *Device) {
		kept := []Secret{s}
		for _, old := range d.Secrets {
			if end := now.Add(overlap); old.Expires.IsZero() || end.Before(old.Expires) {
				old.Expires = end
			}
			if !passed(old.Expires, now) && len(kept) < maxSecrets {
				kept = append(kept, old)
			}
		}
		d.Secrets = kept
	})
	if err != nil {
		return "", err
	}
	return secret, nil
}

// Disable keeps a device out until it is enabled again.
func (r *Registry) Disable(name string) error {
	return r.change(name, func(d *Device) { d.Disabled = true })
}

// Enable lets a device in again.
func (r *Registry) Enable(name string) error {
	return r.change(name, func(d *Device) { d.Disabled = false })
}

// Remove removes a device.
func (r *Registry) Remove(name string) error {
	return r.ledger.Change(func(all []Device) ([]Device, error) {
		left := slices.DeleteFunc(slices.Clone(all), func(d Device) bool { return d.Name == name })
		if len(left) == len(all) {
			return nil, fmt.Errorf("%s: %w", name, ErrNotFound)
		}
		return left, nil
	})
}
