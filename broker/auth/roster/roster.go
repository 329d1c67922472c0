// Package roster keeps users in text files that people and commands edit while the gateway reads
// them: one user to a line, NAME:WORDS, beside empty lines and comments that begin with #.
package roster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unicode"

	"gateway/broker/watch"
)

// MaxFile is the size of a file, in bytes.
const MaxFile = 16 << 20

// maxName is the length of a user's name, in bytes.
const maxName = 256

// A Roster has the users of a file, as it was when Look found it changed. It may be used from any
// goroutine.
type Roster[U any] struct {
	path  string
	parse func(words string) (U, error)
	same  func(a, b U) bool
	users atomic.Pointer[map[string]U]

	looking sync.Mutex // held while the file is read, which no client waits for
	state   string     // of the file, when it was looked at last
}

// New returns the roster of a file, which has nobody before the first Look. Parse reads what stands
// behind a name; same reports whether a client that was let in as one user would be let in as
// another.
func New[U any](path string, parse func(words string) (U, error), same func(a, b U) bool) *Roster[U] {
	r := &Roster[U]{path: path, parse: parse, same: same}
	r.users.Store(new(map[string]U))
	return r
}

// All returns the users by name. The map does not change.
func (r *Roster[U]) All() map[string]U { return *r.users.Load() }

// Look reads the file if it has changed since the last look, and reports whether it has. The names
// returned are of users who are none any more, or not the same. After an error nobody has changed,
// and the file is read again when it has changed again.
func (r *Roster[U]) Look() (gone []string, changed bool, err error) {
	r.looking.Lock()
	defer r.looking.Unlock()
	state := watch.State(r.path)
	if state == r.state {
		return nil, false, nil
	}
	r.state = state
	text, err := Read(r.path)
	if err != nil {
		return nil, false, err
	}
	users, err := Parse(text, r.parse)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w", r.path, err)
	}
	for name, old := range *r.users.Swap(&users) {
		if now, ok := users[name]; !ok || !r.same(now, old) {
			gone = append(gone, name)
		}
	}
	slices.Sort(gone)
	return gone, true, nil
}

// Parse reads the text of a file. An error names the line.
func Parse[U any](text string, parse func(words string) (U, error)) (map[string]U, error) {
	users := make(map[string]U)
	number := 0
	for line := range strings.Lines(text) {
		number++
		name, words, ok := split(line)
		if !ok {
			continue
		}
		u, err := parse(words)
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

// split parts a line into name and words; ok is false for a comment or an empty line.
func split(line string) (name, words string, ok bool) {
	if trimmed := strings.TrimSpace(line); trimmed == "" || trimmed[0] == '#' {
		return "", "", false
	}
	name, words, _ = strings.Cut(strings.TrimRight(line, "\r\n"), ":")
	return name, words, true
}

// CheckName refuses a user name that means something else in a file or in a topic.
func CheckName(name string) error {
	switch {
	case name == "" || len(name) > maxName:
		return fmt.Errorf("a user name has 1 to %d bytes", maxName)
	case strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("user name %q has a character that cannot be printed", name)
	case strings.ContainsAny(name, ":+#/") || name[0] == '$' || strings.TrimSpace(name) != name:
		return fmt.Errorf("user name %q has one of the characters : + # /, begins with $, or has a space at one end", name)
	}
	return nil
}

// Read reads a file of users, which must be neither readable nor writable by everyone.
func Read(path string) (string, error) {
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
	case info.Mode().Perm()&0o002 != 0:
		return "", fmt.Errorf("%s can be written by everyone on this machine; run: chmod 640 %s", path, path)
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

// Set writes the words for a user into a file, in the place of those that it had. A file that is
// not there is made; everything else in it stays.
func (r *Roster[U]) Set(name, words string) error {
	err := CheckName(name)
	if err == nil {
		_, err = r.parse(words)
	}
	if err != nil {
		return err
	}
	_, err = r.edit(name, name+":"+words+"\n")
	return err
}

// Remove removes a user from the file, and reports whether it was there.
func (r *Roster[U]) Remove(name string) (bool, error) { return r.edit(name, "") }

// edit puts line, which may be empty, in the place of a user's line, or at the end.
func (r *Roster[U]) edit(name, line string) (found bool, err error) {
	err = Rewrite(r.path, func(old string, err error) (string, error) {
		if errors.Is(err, os.ErrNotExist) && line != "" {
			old, err = "", nil
		}
		if err == nil {
			_, err = Parse(old, r.parse)
		}
		if err != nil {
			return "", fmt.Errorf("%s: %w", r.path, err)
		}
		var b strings.Builder
		for l := range strings.Lines(old) {
			if n, _, ok := split(l); ok && n == name {
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
		return b.String(), nil
	})
	return found, err
}

// Rewrite puts what change makes of the text of a file in its place, while nobody else does so. Change
// is told why the file cannot be read, if that is so; its error leaves the file as it is.
func Rewrite(path string, change func(text string, err error) (string, error)) error {
	unlock, err := lock(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	text, err := change(Read(path))
	if err != nil {
		return err
	}
	return Replace(path, []byte(text))
}

// Replace puts content in the place of a file, or leaves that as it is. Mode and owner stay; a new
// file is for its owner only.
func Replace(path string, content []byte) (err error) {
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

// lock waits until nobody else edits files in a folder.
func lock(folder string) (unlock func(), err error) {
	f, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	for {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", folder, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // which ends the lock
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
