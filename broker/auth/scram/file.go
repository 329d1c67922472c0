package scram

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A file of users has one user to a line, empty lines, and comments that begin with #:
//
//	NAME:KEYS [KEYS…] [expires=TIME] [disabled]
//
// KEYS are HASH$ITERATIONS:SALT$STORED:SERVER, where HASH is the name of the mechanism and the
// rest in base64, as other servers write them too. TIME is as in 2027-01-31T12:00:00Z (RFC 3339).
// A user has at most one set of keys for each mechanism.

// MaxFile is the size of a file of users, in bytes.
const MaxFile = 16 << 20

// A user is what a line says.
type user struct {
	keys     []Keys
	expires  time.Time // zero: never
	disabled bool
}

// same reports whether a client that was let in as u would be let in as v.
func (u user) same(v user) bool {
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

// nameOf returns the user that a line is about; ok is false for a comment or an empty line.
func nameOf(line string) (name, rest string, ok bool) {
	if trimmed := strings.TrimSpace(line); trimmed == "" || trimmed[0] == '#' {
		return "", "", false
	}
	name, rest, _ = strings.Cut(line, ":")
	return name, rest, true
}

// parse reads a file of users. What cannot be read is an error that names its line.
func parse(text string) (map[string]user, error) {
	users := make(map[string]user)
	number := 0
	for line := range strings.Lines(text) {
		number++
		name, rest, ok := nameOf(line)
		if !ok {
			continue
		}
		u, err := parseUser(rest)
		if err == nil {
			err = CheckName(name)
		}
		if _, twice := users[name]; err == nil && twice {
			err = fmt.Errorf("user %q stands here a second time", name)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		users[name] = u
	}
	return users, nil
}

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

// readFile reads a file of users, which must not be readable by everyone.
func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a regular file", path)
	case info.Mode().Perm()&0o004 != 0:
		return "", fmt.Errorf("%s can be read by everyone on this machine; run: chmod 640 %s", path, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > MaxFile {
		return "", fmt.Errorf("%s is larger than %d bytes", path, MaxFile)
	}
	return string(b), nil
}

// Set writes a user into a file, in the place of the one of that name. Its keys take the place of
// all that it had. A file that is not there is made; everything else in it stays.
func Set(path, name string, expires time.Time, keys ...Keys) error {
	if err := CheckName(name); err != nil {
		return err
	}
	line := name + ":"
	for i, k := range keys {
		if i > 0 {
			line += " "
		}
		line += k.String()
	}
	if !expires.IsZero() {
		line += " expires=" + expires.UTC().Format(time.RFC3339)
	}
	_, err := edit(path, name, line+"\n")
	return err
}

// Remove removes a user from a file, and reports whether it was there.
func Remove(path, name string) (bool, error) { return edit(path, name, "") }

// edit puts line, which may be empty, in the place of a user's line, or at the end.
func edit(path, name, line string) (found bool, err error) {
	old, err := readFile(path)
	if errors.Is(err, os.ErrNotExist) && line != "" {
		old, err = "", nil
	}
	if err == nil {
		_, err = parse(old)
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	var b bytes.Buffer
	for l := range strings.Lines(old) {
		if n, _, ok := nameOf(l); ok && n == name {
			l, found = line, true
		}
		b.WriteString(l)
		if l != "" && !strings.HasSuffix(l, "\n") {
			b.WriteByte('\n')
		}
	}
	if !found {
		b.WriteString(line)
	}
	return found, replace(path, b.Bytes())
}

// replace puts a file in the place of another, or leaves that as it is. Mode and owner stay.
func replace(path string, content []byte) (err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if info, statErr := os.Stat(path); statErr == nil {
		if err = errors.Join(f.Chmod(info.Mode().Perm()), keepOwner(f, info)); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// keepOwner gives a file the owner of another. That the gateway's user may not do that is no error
// if the file is its own.
func keepOwner(f *os.File, old os.FileInfo) error {
	st, ok := old.Sys().(*syscall.Stat_t)
	if !ok || st.Uid == uint32(os.Geteuid()) && st.Gid == uint32(os.Getegid()) {
		return nil
	}
	return f.Chown(int(st.Uid), int(st.Gid))
}

// identityOf tells a file from another one of the same name.
func identityOf(info os.FileInfo) string {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return strconv.FormatUint(st.Ino, 10)
	}
	return ""
}
