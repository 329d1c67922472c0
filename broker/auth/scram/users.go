package scram

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha512"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"

	"gateway/broker/auth/roster"
)

// Users are the users of a file, as it was when Look found it changed. They may be used from any
// goroutine.
type Users struct {
	file   *roster.Roster[user]
	secret []byte
	shapes atomic.Pointer[map[Hash][]shape] // those that there are
}

// A shape is what a server tells of a user before it has shown anything.
type shape struct{ iterations, salt int }

// Open reads a file of users. If that fails there are none until Look finds it in order. The
// secret, 32 bytes or more that are always the same for a server, makes what it tells of users that
// there are not; who knows it can tell who exists.
func Open(path string, secret []byte) (*Users, error) {
	u := &Users{file: roster.New(path, parseUser, same), secret: bytes.Clone(secret)}
	u.shapes.Store(new(map[Hash][]shape))
	_, _, err := u.Look()
	return u, err
}

// Look is that of the roster.
func (u *Users) Look() (gone []string, changed bool, err error) {
	gone, changed, err = u.file.Look()
	if err != nil {
		return nil, false, fmt.Errorf("users of SCRAM: %w", err)
	}
	if changed {
		shapes := shapesOf(u.file.All())
		u.shapes.Store(&shapes)
	}
	return gone, changed, nil
}

func shapesOf(users map[string]user) map[Hash][]shape {
	shapes := make(map[Hash][]shape)
	for _, u := range users {
		for _, k := range u.keys {
			if s := (shape{k.Iterations, len(k.Salt)}); !slices.Contains(shapes[k.Hash], s) {
				shapes[k.Hash] = append(shapes[k.Hash], s)
			}
		}
	}
	return shapes
}

// find returns a user and its keys for a mechanism. For one that does not exist, or has no such
// keys, it returns keys that are always the same and that no password fits. Both take as long.
func (u *Users) find(name string, h Hash) (user, Keys, bool) {
	keys := u.invent(name, h, (*u.shapes.Load())[h])
	who := u.file.All()[name]
	i := slices.IndexFunc(who.keys, func(k Keys) bool { return k.Hash == h })
	if i < 0 {
		return user{}, keys, false
	}
	return who, who.keys[i], true
}

// invent makes keys for a name. Their shape is one of those that users have: the one that a draw
// among all of them gives the name. So it stays what it is when another one comes or goes, unless
// that has the luck of the draw.
func (u *Users) invent(name string, h Hash, shapes []shape) Keys {
	s := shape{DefaultIterations, newSalt}
	if len(shapes) > 0 {
		s = slices.MaxFunc(shapes, func(a, b shape) int {
			return cmp.Or(bytes.Compare(u.draw(name, h, a.String()), u.draw(name, h, b.String())), cmp.Compare(a.salt, b.salt))
		})
	}
	return Keys{
		Hash: h, Iterations: s.iterations,
		Salt:   u.draw(name, h, "salt")[:s.salt],
		Stored: u.draw(name, h, "stored")[:h.size()],
		Server: u.draw(name, h, "server")[:h.size()],
	}
}

func (s shape) String() string { return strconv.Itoa(s.iterations) + " " + strconv.Itoa(s.salt) }

// draw returns 64 bytes that only the secret tells from chance.
func (u *Users) draw(name string, h Hash, what string) []byte {
	m := hmac.New(sha512.New, u.secret)
	fmt.Fprintf(m, "%s %s %q", h, what, name)
	return m.Sum(nil)
}
