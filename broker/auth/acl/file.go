package acl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"gateway/broker/auth"
	"gateway/broker/topic"
	"gateway/broker/watch"
)

// Limits of an ACL file.
const (
	maxFile  = 16 << 20 // bytes
	maxLines = 100_000
)

// A File has the rules of an ACL file of Mosquitto, as it was when Look found it changed, and
// decides as Mosquitto does: a line that denies goes before those that allow, lines of the user
// before patterns, and what no line allows is denied. But a command is allowed only by a line that names
// its topic. Every subscription is granted; what the
// client may not read of it is not delivered. A File may be used from any goroutine.
type File struct {
	path string
	book atomic.Pointer[book]

	looking sync.Mutex
	state   string
}

// A book is the content of a file.
type book struct {
	name      string             // of the file, for people
	users     map[string][]entry // lines below "user NAME"
	anonymous []entry            // lines before the first of these
	patterns  []entry

	// What is said where no line decides. It is said for many messages, and so made once.
	granted, odd, unnamed, anonymousDenied, userDenied string
}

// newBook returns an empty book of a file.
func newBook(name string) *book {
	return &book{
		name: name, users: make(map[string][]entry),
		granted:         name + ": every subscription is granted; what the client may not read is not delivered",
		odd:             name + ": a user name or client identifier with + or # could stand for those of others: no pattern counts for it",
		unnamed:         name + ": " + auth.Unnamed,
		anonymousDenied: name + ": no line for anonymous clients and no pattern allows it",
		userDenied:      name + ": no line for this user and no pattern allows it",
	}
}

// An entry is a line that says what may be done with a topic.
type entry struct {
	read, write bool // neither: deny
	filter      string
	rule        string // the line, with its place
}

// OpenFile reads an ACL file. If that fails nothing is allowed until Look finds it in order.
func OpenFile(path string) (*File, error) {
	f := &File{path: path}
	f.book.Store(newBook(filepath.Base(path)))
	_, err := f.Look()
	return f, err
}

// Look reads the file if it has changed since the last look, and reports whether it has. After an
// error the rules of before still count, and the file is read again when it has changed again.
func (f *File) Look() (changed bool, err error) {
	f.looking.Lock()
	defer f.looking.Unlock()
	state := watch.State(f.path)
	if state == f.state {
		return false, nil
	}
	f.state = state
	text, err := read(f.path)
	if err != nil {
		return false, fmt.Errorf("ACL file: %w", err)
	}
	b, err := parse(filepath.Base(f.path), text)
	if err != nil {
		return false, fmt.Errorf("ACL file %s: %w", f.path, err)
	}
	f.book.Store(b)
	return true, nil
}

func read(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o002 != 0 {
		return "", fmt.Errorf("%s can be written by everyone on this machine; run: chmod o-w %s", path, path)
	}
	b, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return "", err
	}
	if len(b) > maxFile {
		return "", fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return string(b), nil
}

// parse reads the text of a file. Its error names each line that is not as it should be.
func parse(name, text string) (*book, error) {
	b := newBook(name)
	var faults []error
	user, number := "", 0
	for line := range strings.Lines(text) {
		if number++; number > maxLines {
			return nil, fmt.Errorf("more than %d lines", maxLines)
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		line = strings.TrimRight(line, " \t\r\n\v\f")
		word, rest, _ := strings.Cut(strings.TrimLeft(line, " "), " ")
		rest = strings.Trim(rest, " \t")
		switch {
		case word == "":
			continue
		case word == "user" && rest != "":
			user = rest
			if b.users[user] == nil {
				b.users[user] = []entry{}
			}
			continue
		case (word == "topic" || word == "pattern") && rest != "":
			e, err := parseEntry(rest)
			if err != nil {
				faults = append(faults, fmt.Errorf("line %d: %w", number, err))
				continue
			}
			e.rule = fmt.Sprintf("%s:%d: %s", name, number, strings.TrimSpace(line))
			switch {
			case word == "pattern":
				b.patterns = add(b.patterns, e)
			case user == "":
				b.anonymous = add(b.anonymous, e)
			default:
				b.users[user] = add(b.users[user], e)
			}
			continue
		}
		faults = append(faults, fmt.Errorf("line %d: a line is topic [read|write|readwrite|deny] FILTER, the same with pattern, or user NAME, not %.60q", number, line))
	}
	if len(faults) > 10 {
		faults = append(faults[:10], fmt.Errorf("and %d lines more", len(faults)-10))
	}
	return b, errors.Join(faults...)
}

// parseEntry reads "read a/#".
func parseEntry(s string) (e entry, err error) {
	word, rest, more := strings.Cut(s, " ")
	e.filter = strings.TrimLeft(rest, " \t")
	switch {
	case !more:
		e.read, e.write, e.filter = true, true, word
	case word == "read":
		e.read = true
	case word == "write":
		e.write = true
	case word == "readwrite":
		e.read, e.write = true, true
	case word == "deny":
	default:
		return e, fmt.Errorf("what may be done is read, write, readwrite or deny, not %.20q", word)
	}
	if err := topic.ValidFilter(e.filter); err != nil {
		return e, fmt.Errorf("filter %.60q: %w", e.filter, err)
	}
	return e, nil
}

// add keeps what denies before what allows.
func add(list []entry, e entry) []entry {
	if e.read || e.write {
		return append(list, e)
	}
	return slices.Insert(list, 0, e)
}

// each calls see with every line that says what may be done.
func (f *File) each(see func(*entry)) {
	b := f.book.Load()
	lists := [][]entry{b.anonymous, b.patterns}
	for _, name := range slices.Sorted(maps.Keys(b.users)) {
		lists = append(lists, b.users[name])
	}
	for _, list := range lists {
		for i := range list {
			see(&list[i])
		}
	}
}

// Filters reports that there are rules for what clients receive: each message is asked about.
func (f *File) Filters(*auth.Client) bool { return true }

// Authorize decides as Mosquitto does.
func (f *File) Authorize(_ context.Context, c *auth.Client, r auth.Request) auth.Verdict {
	b := f.book.Load()
	if r.Action == auth.Subscribe {
		return auth.Verdict{Allowed: true, Rule: b.granted}
	}
	own := b.anonymous
	if c.User != "" {
		own = b.users[c.User]
	}
	if v := b.decide(own, r, func(e *entry) bool { return topic.Match(e.filter, r.Topic) }); v.Rule != "" {
		return v
	}
	if len(b.patterns) > 0 && (strings.ContainsAny(c.User, "+#") || strings.ContainsAny(c.ID, "+#")) {
		return auth.Verdict{Rule: b.odd}
	}
	if v := b.decide(b.patterns, r, func(e *entry) bool { return fits(e.filter, c, r.Topic) }); v.Rule != "" {
		return v
	}
	if r.Command {
		return auth.Verdict{Rule: b.unnamed}
	}
	if c.User == "" {
		return auth.Verdict{Rule: b.anonymousDenied}
	}
	return auth.Verdict{Rule: b.userDenied}
}

// decide asks the entries in order.
func (b *book) decide(entries []entry, r auth.Request, match func(*entry) bool) auth.Verdict {
	for i := range entries {
		e := &entries[i]
		allows := r.Action == auth.Publish && e.write && (!r.Command || auth.Names(e.filter, r.Topic)) || r.Action == auth.Receive && e.read
		if (allows || !e.read && !e.write) && match(e) {
			return auth.Verdict{Allowed: allows, Rule: e.rule}
		}
	}
	return auth.Verdict{}
}

// fits reports whether a pattern matches a topic for a client.
func fits(pattern string, c *auth.Client, name string) bool {
	if strings.Contains(pattern, "%u") && c.User == "" {
		return false
	}
	if strings.HasPrefix(name, "$") && !strings.HasPrefix(pattern, "$") {
		return false // a client that is called $CONTROL does not administer the gateway
	}
	return topic.Match(expand(pattern, c), name)
}

// expand puts the names of a client into a pattern, in one pass: what they contain is text.
func expand(pattern string, c *auth.Client) string {
	if !strings.Contains(pattern, "%") {
		return pattern
	}
	var b strings.Builder
	for {
		front, rest, found := strings.Cut(pattern, "%")
		b.WriteString(front)
		switch {
		case !found:
			return b.String()
		case strings.HasPrefix(rest, "c"):
			b.WriteString(c.ID)
			pattern = rest[1:]
		case strings.HasPrefix(rest, "u"):
			b.WriteString(c.User)
			pattern = rest[1:]
		default:
			b.WriteByte('%')
			pattern = rest
		}
	}
}
