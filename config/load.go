package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits of a configuration file.
const (
	maxFile  = 1 << 20 // bytes
	maxDepth = 32      // sections within sections; the schema needs 8
	maxWidth = 10_000  // entries of one section; the parser's time grows with the square
)

// Load reads the file at path, with secrets from the environment of this process. An error
// that is Problems lists all that is wrong with the file; CheckFiles looks at what it refers to.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return Parse(path, src, os.LookupEnv)
}

// Parse is Load for a file whose bytes are src. Relative paths in it are relative to the
// folder of name; env looks up the variables of {env: NAME}. Parse opens no file. Its error is
// of type Problems.
func Parse(name string, src []byte, env func(string) (string, bool)) (*Config, error) {
	root, problems := syntax(name, src)
	if problems != nil {
		return nil, problems
	}
	d := decoder{
		places: places{file: name, lines: make(map[string]int)},
		dir:    filepath.Dir(name),
		env:    env,
	}
	c := new(Config)
	d.section(root, valueOf(c), "")
	c.at = d.places
	host, err := os.Hostname()
	if err != nil {
		host = "gateway"
	}
	c.complete(host, d.dir)
	k := checker{places: d.places, problems: d.problems}
	k.config(c)
	if len(k.problems) > 0 {
		k.problems.sort()
		return nil, k.problems
	}
	c.Warnings = k.warnings
	c.Warnings.sort()
	return c, nil
}

// complete fills in the defaults that depend on other values.
func (c *Config) complete(host, dir string) {
	if c.Gateway.ID == "" {
		c.Gateway.ID = host
	}
	for i := range c.Listeners {
		l := &c.Listeners[i]
		_, told := c.at.lines[fmt.Sprintf("listeners[%d].protocols", i)]
		switch path, isSocket := l.Unix(); {
		case isSocket && path != "" && !filepath.IsAbs(path):
			l.Address = "unix:" + filepath.Join(dir, path)
		case !isSocket && (l.Address != "" || told && l.port() != ""):
			l.Address = withPort(cmp.Or(l.Address, ":"), l.port())
		}
	}
	for i := range c.Bridges {
		b := &c.Bridges[i]
		if b.ClientID == "" {
			b.ClientID = c.Gateway.ID + "-" + b.Name
		}
		if b.StateTopic == "" {
			b.StateTopic = "gateway/" + b.ClientID + "/state"
		}
		if b.Window == 0 {
			b.Window = 20
			if b.Version == "5.0" {
				b.Window = 256
			}
		}
	}
	for i := range c.Serial {
		for j := range c.Serial[i].Frames {
			f := &c.Serial[i].Frames[j]
			if f.Format == "split" && f.Separator == "" {
				f.Separator = ","
			}
		}
	}
}

// syntax returns the root of the file's only document; nil is an empty one. The tree holds
// plain YAML only: what would let a small file grow large, or deep, is refused before it is
// parsed.
func syntax(name string, src []byte) (ast.Node, Problems) {
	fail := func(line int, format string, args ...any) (ast.Node, Problems) {
		return nil, Problems{{File: name, Line: line, Text: fmt.Sprintf(format, args...)}}
	}
	if len(src) > maxFile {
		return fail(0, "larger than 1 MiB; this is not a configuration file of the gateway")
	}
	if at := invalidUTF8(src); at >= 0 {
		return fail(1+bytes.Count(src[:at], []byte("\n")), "not UTF-8 text; save the file as UTF-8")
	}
	tokens := lexer.Tokenize(string(src))
	if p := plain(tokens); p != nil {
		p.File = name
		return nil, Problems{*p}
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var bad *yaml.SyntaxError
		if errors.As(err, &bad) && bad.GetToken() != nil {
			return fail(bad.GetToken().Position.Line, "%s; check the indentation and the punctuation", bad.GetMessage())
		}
		return fail(0, "%v", err)
	}
	var root ast.Node
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if root != nil {
			return fail(doc.Body.GetToken().Position.Line, "a second document; everything belongs into one, remove the line ---")
		}
		root = doc.Body
	}
	return root, nil
}

// invalidUTF8 returns the index of the first byte that is not UTF-8, or -1.
func invalidUTF8(src []byte) int {
	for i := 0; i < len(src); {
		r, n := utf8.DecodeRune(src[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

// plain refuses what would let a small file grow large or deep, before it is parsed: anchors,
// aliases, tags and directives; sections beyond maxDepth or maxWidth.
func plain(tokens token.Tokens) *Problem {
	type section struct{ column, width int }
	var block []section // that are open; each is further right than the one around it
	flow := 0           // open [ and {
	for _, t := range tokens {
		refuse := func(format string, args ...any) *Problem {
			return &Problem{Line: t.Position.Line, Text: fmt.Sprintf(format, args...)}
		}
		column := t.Position.Column
		switch t.Type {
		case token.AnchorType, token.AliasType, token.MergeKeyType, token.TagType, token.DirectiveType:
			return refuse("%q: anchors, aliases, tags and directives are not used here; write the value out, or in quotes if it is text", t.Value)
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.MappingValueType:
			if flow > 0 || t.Prev == nil {
				continue
			}
			column = t.Prev.Position.Column // of the key
			fallthrough
		case token.SequenceEntryType, token.MappingKeyType:
			for len(block) > 0 && block[len(block)-1].column > column {
				block = block[:len(block)-1]
			}
			if len(block) == 0 || block[len(block)-1].column < column {
				block = append(block, section{column: column})
			}
			block[len(block)-1].width++
			if block[len(block)-1].width > maxWidth {
				return refuse("more than %d entries in one section", maxWidth)
			}
		}
		if flow+len(block) > maxDepth {
			return refuse("more than %d sections within each other; check the indentation", maxDepth)
		}
	}
	return nil
}
