package scram

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"gateway/broker/auth/roster"
)

// A file of users is a roster with the lines
//
//	NAME:KEYS [KEYS…] [expires=TIME] [disabled]
//
// KEYS are HASH$ITERATIONS:SALT$STORED:SERVER, where HASH is the name of the mechanism and the
// rest in base64, as other servers write them too. TIME is as in 2027-01-31T12:00:00Z (RFC 3339).
// A user has at most one set of keys for each mechanism.

// A user is what a line says.
type user struct {
	keys     []Keys
	expires  time.Time // zero: never
	disabled bool
}

// same reports whether a client that was let in as u would be let in as v.
func same(u, v user) bool {
	return u.disabled == v.disabled && u.expires.Equal(v.expires) &&
		slices.EqualFunc(u.keys, v.keys, func(a, b Keys) bool { return a.String() == b.String() })
}

// String returns the keys as they stand in a file.
func (k Keys) String() string {
	b64 := encoding.EncodeToString
	return k.Hash.String() + "$" + strconv.Itoa(k.Iterations) + ":" + b64(k.Salt) + "$" + b64(k.Stored) + ":" + b64(k.Server)
}

// ParseKeys reads keys as String writes them.
func ParseKeys(s string) (Keys, error) {
	parts := strings.Split(s, "$")
	if len(parts) != 3 {
		return Keys{}, errors.New("keys are HASH$ITERATIONS:SALT$STORED:SERVER")
	}
	h, err := ParseHash(parts[0])
	if err != nil {
		return Keys{}, err
	}
	iterations, salt, _ := strings.Cut(parts[1], ":")
	stored, server, _ := strings.Cut(parts[2], ":")
	k := Keys{Hash: h}
	if k.Iterations, err = strconv.Atoi(iterations); err != nil || k.Iterations < MinIterations || k.Iterations > MaxIterations {
		return Keys{}, fmt.Errorf("%s: iterations from %d to %d are wanted", h, MinIterations, MaxIterations)
	}
	for _, field := range []struct {
		text     string
		to       *[]byte
		min, max int
	}{{salt, &k.Salt, minSalt, maxSalt}, {stored, &k.Stored, h.size(), h.size()}, {server, &k.Server, h.size(), h.size()}} {
		b, err := encoding.DecodeString(field.text)
		if err != nil || len(b) < field.min || len(b) > field.max {
			return Keys{}, fmt.Errorf("%s: the salt or a key is cut off, or not in base64", h)
		}
		*field.to = b
	}
	return k, nil
}

// parseUser reads what stands behind a name.
func parseUser(words string) (u user, err error) {
	for word := range strings.FieldsSeq(words) {
		at, expires := strings.CutPrefix(word, "expires=")
		switch {
		case word == "disabled":
			u.disabled = true
		case expires:
			if u.expires, err = time.Parse(time.RFC3339, at); err != nil {
				return user{}, fmt.Errorf("expires=%.40q: want a time as 2027-01-31T12:00:00Z", at)
			}
		default:
			k, err := ParseKeys(word)
			if err != nil {
				return user{}, err
			}
			if slices.ContainsFunc(u.keys, func(o Keys) bool { return o.Hash == k.Hash }) {
				return user{}, fmt.Errorf("two sets of keys for %s", k.Hash)
			}
			u.keys = append(u.keys, k)
		}
	}
	if len(u.keys) == 0 {
		return user{}, errors.New("no keys: a line is NAME:KEYS, as gateway scram writes it")
	}
	return u, nil
}

// Set writes a user into a file of users, in the place of the one of that name. Its keys take the
// place of all that it had. A file that is not there is made; everything else in it stays.
func Set(path, name string, expires time.Time, keys ...Keys) error {
	if err := CheckName(name); err != nil {
		return err
	}
	var words []string
	for _, k := range keys {
		words = append(words, k.String())
	}
	if !expires.IsZero() {
		words = append(words, "expires="+expires.UTC().Format(time.RFC3339))
	}
	return roster.New(path, parseUser, same).Set(name, strings.Join(words, " "))
}

// Remove removes a user from a file of users, and reports whether it was there.
func Remove(path, name string) (bool, error) { return roster.New(path, parseUser, same).Remove(name) }

// Check reads a file of users and says what is wrong with it.
func Check(path string) error {
	_, _, err := roster.New(path, parseUser, same).Look()
	return err
}
