// Package passwd lets clients in by user name and password, from a password file of Mosquitto.
package passwd

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync/atomic"

	"gateway/broker/auth"
	"gateway/broker/auth/roster"
)

// By is what the identities say that come from here.
const By = "file"

// Users are the users of a password file, as it was when Look found it changed. They may be used
// from any goroutine.
type Users struct {
	file  *roster.Roster[hash]
	pool  *Pool
	seed  maphash.Seed
	costs atomic.Pointer[[]cost] // one for each user
}

// Open reads a password file. If that fails there is nobody until Look finds it in order.
func Open(path string, pool *Pool) (*Users, error) {
	u := &Users{file: newRoster(path), pool: pool, seed: maphash.MakeSeed()}
	u.costs.Store(new([]cost))
	_, _, err := u.Look()
	return u, err
}

func newRoster(path string) *roster.Roster[hash] {
	return roster.New(path, parse, func(a, b hash) bool { return a == b })
}

// Look reads the file if it has changed, and reports whether it has. The users returned are gone,
// or have another password now. After an error nobody has changed.
func (u *Users) Look() (gone []string, changed bool, err error) {
	gone, changed, err = u.file.Look()
	if err != nil {
		return nil, false, fmt.Errorf("password file: %w", err)
	}
	if changed {
		var costs []cost
		for _, h := range u.file.All() {
			costs = append(costs, h.cost)
		}
		slices.SortFunc(costs, func(a, b cost) int {
			return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.iterations, b.iterations), cmp.Compare(a.memory, b.memory), cmp.Compare(a.saltSize, b.saltSize))
		})
		u.costs.Store(&costs)
	}
	return gone, changed, nil
}

// Has reports whether there is a user.
func (u *Users) Has(name string) bool {
	_, ok := u.file.All()[name]
	return ok
}

// Authenticate lets in whose password is that of the user. A user that there is not takes as long
// as one with a wrong password.
func (u *Users) Authenticate(ctx context.Context, a auth.Attempt) (auth.Identity, error) {
	if a.Username == "" {
		return auth.Identity{}, fmt.Errorf("no user name: %w", auth.ErrUnknown)
	}
	h, known := u.file.All()[a.Username]
	if !known {
		h = u.invent(a.Username)
	}
	fits := false
	if err := u.pool.do(ctx, h.cost, func() { fits = h.fits(a.Password) }); err != nil {
		return auth.Identity{}, err
	}
	switch {
	case !known:
		return auth.Identity{}, fmt.Errorf("user %q is not in the password file: %w", a.Username, auth.ErrUnknown)
	case !fits:
		return auth.Identity{}, fmt.Errorf("wrong password for user %q: %w", a.Username, auth.ErrBadCredentials)
	}
	return auth.Identity{User: a.Username, By: By}, nil
}

// Delay takes as long as to refuse a user that there is not.
func (u *Users) Delay(ctx context.Context, a auth.Attempt) {
	if h := u.invent(a.Username); a.Username != "" {
		_ = u.pool.do(ctx, h.cost, func() { h.fits(a.Password) })
	}
}

// invent returns a hash that no password fits, for a user that there is not. It costs what that of
// some user costs, for the same name always the same one's.
func (u *Users) invent(name string) hash {
	c := cost{kind: PBKDF2, iterations: DefaultIterations, saltSize: 12, keySize: 64}
	if costs := *u.costs.Load(); len(costs) > 0 {
		c = costs[maphash.String(u.seed, name)%uint64(len(costs))]
	}
	return hash{cost: c, salt: strings.Repeat("s", c.saltSize)} // and no key
}

// Set writes a user and its password into a file, which is made if need be.
func Set(path, name string, password []byte, k Kind, iterations int) error {
	words, err := Hash(password, k, iterations)
	if err != nil {
		return err
	}
	return newRoster(path).Set(name, words)
}

// Create makes a file with one user, in the place of another one.
func Create(path, name string, password []byte, k Kind, iterations int) error {
	words, err := Hash(password, k, iterations)
	if err != nil {
		return err
	}
	if err := roster.CheckName(name); err != nil {
		return err
	}
	return roster.Rewrite(path, func(string, error) (string, error) { return name + ":" + words + "\n", nil })
}

// Remove removes a user from a file. It is an error if it is not there.
func Remove(path, name string) error {
	found, err := newRoster(path).Remove(name)
	if err == nil && !found {
		return fmt.Errorf("%s has no user %q", path, name)
	}
	return err
}

// Check reads a file and says what is wrong with it.
func Check(path string) error {
	_, _, err := newRoster(path).Look()
	return err
}

// Update puts hashes in the place of plain passwords, and returns how many there were.
func Update(path string, k Kind, iterations int) (n int, err error) {
	err = roster.Rewrite(path, func(text string, err error) (string, error) {
		if err != nil {
			return "", err
		}
		var out strings.Builder
		for line := range strings.Lines(text) {
			name, words, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
			if !ok || strings.HasPrefix(strings.TrimSpace(name), "#") {
				out.WriteString(line)
				continue
			}
			if _, err := parse(words); err != nil {
				if words, err = Hash([]byte(words), k, iterations); err != nil {
					return "", fmt.Errorf("%s: user %q: %w", path, name, err)
				}
				n++
			}
			fmt.Fprintf(&out, "%s:%s\n", name, words)
		}
		if _, err := roster.Parse(out.String(), parse); err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		return out.String(), nil
	})
	return n, err
}
