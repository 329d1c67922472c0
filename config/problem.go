package config

import (
	"fmt"
	"slices"
	"strings"
)

// A Problem is one thing that is wrong with a configuration file.
type Problem struct {
	File string
	Line int    // from 1; 0 when it is about the file as a whole
	Key  string // "bridges[0].window"; empty for syntax
	Text string // what is wrong, and the remedy
}

// String is the form that editors and terminals make a link of: file:line: key: text.
func (p Problem) String() string { return p.Where() + ": " + p.Text }

// Where is the place of the problem: file:line: key.
func (p Problem) Where() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Key != "" {
		b.WriteString(": ")
		b.WriteString(p.Key)
	}
	return b.String()
}

// Problems is everything that is wrong with a file, in the order of its lines. As an error it
// has one problem a line.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, one := range p {
		lines[i] = one.String()
	}
	return strings.Join(lines, "\n")
}

// sort orders by line; problems of one line stay as they were found.
func (p Problems) sort() {
	slices.SortStableFunc(p, func(a, b Problem) int { return a.Line - b.Line })
}

// places remembers the line of every key that the file gives.
type places struct {
	file  string
	lines map[string]int
}

// problem makes one at a key, on the line of the key or of the nearest section around it.
func (pl places) problem(key, format string, args ...any) Problem {
	return Problem{File: pl.file, Line: pl.line(key), Key: key, Text: fmt.Sprintf(format, args...)}
}

func (pl places) line(key string) int {
	for {
		if n, ok := pl.lines[key]; ok {
			return n
		}
		cut := strings.LastIndexAny(key, ".[")
		if cut < 0 {
			return 1
		}
		key = key[:cut]
	}
}
