package scram

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha512"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
)

// Users are the users of a file, as it was when Look found it changed. They may be used from any
// goroutine.
type Users struct {
	path   string
	secret []byte
	table  atomic.Pointer[table]

	looking sync.Mutex // held while the file is read, which no exchange waits for
	state   string     // of the file, when it was looked at last
}

// A table is the content of a file.
type table struct {
	users  map[string]user
	shapes map[Hash][]shape // those that there are
}

// A shape is what a server tells of a user before it has shown anything.
type shape struct{ iterations, salt int }

// Open reads a file of users. The secret, 32 bytes or more that are always the same for a server,
// makes what it tells of users that there are not; who knows it can tell who exists.
func Open(path string, secret []byte) (*Users, error) {
	if len(secret) < 32 {
		return nil, errors.New("the secret for users that do not exist is shorter than 32 bytes")
	}
	u := &Users{path: path, secret: bytes.Clone(secret)}
	u.table.Store(&table{})
	_, err := u.Look()
	return u, err
}

// Look reads the file if it has changed since the last look. It returns the names of those who were
// users and are not any more, or not with the same keys. After an error nothing has changed, and
// the file is read again when it has changed again.
func (u *Users) Look() (gone []string, err error) {
	u.looking.Lock()
	defer u.looking.Unlock()
	state := stateOf(u.path)
	if state == u.state {
		return nil, nil
	}
	u.state = state
	text, err := readFile(u.path)
	if err != nil {
		return nil, fmt.Errorf("users of SCRAM: %w", err)
	}
	users, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("users of SCRAM: %s: %w", u.path, err)
	}
	before := u.table.Swap(newTable(users))
	for name, old := range before.users {
		if now, ok := users[name]; !ok || !now.same(old) {
			gone = append(gone, name)
		}
	}
	slices.Sort(gone)
	return gone, nil
}

// stateOf tells one state of a file from another.
func stateOf(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return "none"
	}
	return strconv.FormatInt(info.ModTime().UnixNano(), 10) + " " + strconv.FormatInt(info.Size(), 10) + " " + info.Mode().String() + " " + identityOf(info)
}

func newTable(users map[string]user) *table {
	t := &table{users: users, shapes: make(map[Hash][]shape)}
	for _, u := range users {
		for _, k := range u.keys {
			if s := (shape{k.Iterations, len(k.Salt)}); !slices.Contains(t.shapes[k.Hash], s) {
				t.shapes[k.Hash] = append(t.shapes[k.Hash], s)
			}
		}
	}
	return t
}

// find returns a user and its keys for a mechanism. For one that does not exist, or has no such
// keys, it returns keys that are always the same and that no password fits. Both take as long.
func (u *Users) find(name string, h Hash) (user, Keys, bool) {
	t := u.table.Load()
	keys := u.invent(name, h, t.shapes[h])
	who := t.users[name]
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
