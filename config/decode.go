package config

import (
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// A field is what the tags of a struct's field say.
type field struct {
	key      string
	index    []int
	required bool
	path     bool // a file, relative to the configuration's folder
	size     bool // a count of bytes
	text     bool // text that may look like a number
	def      string
	bounds   string
	words    []string
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	secretType   = reflect.TypeFor[Secret]()
)

func valueOf(c *Config) reflect.Value { return reflect.ValueOf(c).Elem() }

// fieldsOf lists the keys of a section, inlined ones included.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, ok := sf.Tag.Lookup("yaml")
		if !ok || tag == "-" {
			continue
		}
		key, options, _ := strings.Cut(tag, ",")
		has := func(o string) bool { return slices.Contains(strings.Split(options, ","), o) }
		if has("inline") {
			for _, in := range fieldsOf(sf.Type) {
				in.index = append([]int{i}, in.index...)
				fields = append(fields, in)
			}
			continue
		}
		fields = append(fields, field{
			key: key, index: []int{i},
			required: has("required"), path: has("path"), size: has("size"), text: has("text"),
			def: sf.Tag.Get("default"), bounds: sf.Tag.Get("range"), words: strings.Fields(sf.Tag.Get("words")),
		})
	}
	return fields
}

// A decoder fills structs from the syntax tree and collects the problems it meets.
type decoder struct {
	places
	dir      string
	env      func(string) (string, bool)
	problems Problems
}

// report notes a problem.
func (d *decoder) report(key, format string, args ...any) {
	d.problems = append(d.problems, d.problem(key, format, args...))
}

// section fills the struct v, defaults first, from the mapping n; nil is an empty one.
func (d *decoder) section(n ast.Node, v reflect.Value, path string) {
	fields := fieldsOf(v.Type())
	d.defaults(fields, v)
	given := make(map[string]bool)
	for _, pair := range d.pairs(n, path) {
		key := pair.Key.GetToken().Value
		at := join(path, key)
		line := pair.Key.GetToken().Position.Line
		if given[key] {
			p := d.problem(at, "given twice, first on line %d; keep one", d.lines[at])
			p.Line = line
			d.problems = append(d.problems, p)
			continue
		}
		d.lines[at], given[key] = line, true
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == key })
		if i < 0 {
			d.report(at, "unknown key; %s", suggest(key, fields))
			continue
		}
		d.value(pair.Value, fields[i], v.FieldByIndex(fields[i].index), at)
	}
	for _, f := range fields {
		if f.required && !given[f.key] {
			d.report(join(path, f.key), "missing; %s", addIt(f))
		}
	}
}

// addIt is the remedy for a required key that is missing.
func addIt(f field) string {
	if len(f.words) > 0 {
		return "add it: " + strings.Join(f.words, " or ")
	}
	return "add it"
}

// defaults sets what the tags say; nested sections get theirs even when the file has none.
func (d *decoder) defaults(fields []field, v reflect.Value) {
	for _, f := range fields {
		fv := v.FieldByIndex(f.index)
		if fv.Kind() == reflect.Slice {
			if words := strings.Fields(f.def); len(words) > 0 {
				fv.Set(reflect.ValueOf(words))
			}
			continue
		}
		if f.def != "" {
			if text := setScalar(fv, f, scalar{text: f.def, kind: kindAny}); text != "" {
				d.report(f.key, "default: %s", text)
			}
		}
		if fv.Kind() == reflect.Struct && fv.Type() != secretType {
			d.defaults(fieldsOf(fv.Type()), fv)
		}
	}
}

// pairs returns the keys and values of a mapping.
func (d *decoder) pairs(n ast.Node, path string) []*ast.MappingValueNode {
	switch n := n.(type) {
	case nil:
		return nil
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	}
	d.report(path, "keys with values are wanted here, as in key: value, not %s", describe(n))
	return nil
}

// value fills v, a field of any type.
func (d *decoder) value(n ast.Node, f field, v reflect.Value, path string) {
	if n == nil || n.Type() == ast.NullType {
		d.report(path, "has no value; give it one, or remove the key")
		return
	}
	switch {
	case v.Type() == secretType:
		d.secret(n, v.Addr().Interface().(*Secret), path)
	case v.Kind() == reflect.Struct:
		d.section(n, v, path)
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.String:
		d.words(n, f, v, path)
	case v.Kind() == reflect.Slice:
		d.list(n, v, path)
	case v.Kind() == reflect.Map:
		d.texts(n, f, v, path)
	case v.Kind() == reflect.Pointer && v.Type().Elem().Kind() == reflect.Struct:
		v.Set(reflect.New(v.Type().Elem()))
		d.section(n, v.Elem(), path)
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.scalar(n, f, v.Elem(), path)
	default:
		d.scalar(n, f, v, path)
	}
}

// list fills a slice of structs.
func (d *decoder) list(n ast.Node, v reflect.Value, path string) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.report(path, "a list is wanted here, entries that begin with -, not %s", describe(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values)))
	for i, item := range seq.Values {
		at := path + "[" + strconv.Itoa(i) + "]"
		d.lines[at] = d.line(path)
		if item == nil || item.Type() == ast.NullType {
			d.report(at, "an empty entry; remove the - or give it keys")
			d.defaults(fieldsOf(v.Type().Elem()), v.Index(i))
			continue
		}
		d.lines[at] = firstLine(item)
		d.section(item, v.Index(i), at)
	}
}

// texts fills a map of texts, whose keys the file chooses.
func (d *decoder) texts(n ast.Node, f field, v reflect.Value, path string) {
	texts := make(map[string]string)
	for _, pair := range d.pairs(n, path) {
		key := pair.Key.GetToken().Value
		at := join(path, key)
		if _, ok := texts[key]; ok {
			d.report(at, "given twice; keep one")
			continue
		}
		d.lines[at] = pair.Key.GetToken().Position.Line
		text := reflect.New(v.Type().Elem()).Elem()
		if pair.Value == nil || pair.Value.Type() == ast.NullType {
			d.report(at, "has no value; give it one, or remove the key")
			continue
		}
		if s, ok := scalarOf(pair.Value); !ok {
			d.report(at, "one value is wanted here, not %s", describe(pair.Value))
		} else if problem := setScalar(text, f, s); problem != "" {
			d.report(at, "%s", problem)
		}
		texts[key] = text.String()
	}
	v.Set(reflect.ValueOf(texts))
}

// words fills a list of texts; one alone needs no brackets. None is given twice.
func (d *decoder) words(n ast.Node, f field, v reflect.Value, path string) {
	items := []ast.Node{n}
	if seq, ok := n.(*ast.SequenceNode); ok {
		items = seq.Values
	}
	if len(items) == 0 {
		d.report(path, "an empty list; give it entries, or remove the key")
	}
	var list []string
	for i, item := range items {
		at := path + "[" + strconv.Itoa(i) + "]"
		d.lines[at] = d.line(path)
		if item == nil || item.Type() == ast.NullType {
			d.report(at, "an empty entry; give it a value or remove it")
			continue
		}
		d.lines[at] = item.GetToken().Position.Line
		word := reflect.New(v.Type().Elem()).Elem()
		d.scalar(item, f, word, at)
		if s := word.String(); s != "" && slices.Contains(list, s) {
			d.report(at, "%s is given twice; keep one", quoteShort(s))
		}
		list = append(list, word.String())
	}
	v.Set(reflect.ValueOf(list))
}

// firstLine is the line on which an entry begins; a mapping's own token is only its first colon.
func firstLine(n ast.Node) int {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 {
		return m.Values[0].Key.GetToken().Position.Line
	}
	return n.GetToken().Position.Line
}

func (d *decoder) scalar(n ast.Node, f field, v reflect.Value, path string) {
	s, ok := scalarOf(n)
	if !ok {
		d.report(path, "one value is wanted here, not %s", describe(n))
		return
	}
	if variable.MatchString(s.text) {
		d.report(path, "%s is not replaced here; only secrets take a variable, as {env: NAME}", s.text)
		return
	}
	if text := setScalar(v, f, s); text != "" {
		d.report(path, "%s", text)
		return
	}
	if f.required && v.IsZero() && v.Kind() == reflect.String {
		d.report(path, "must not be empty")
	}
	if f.path && v.String() != "" && !filepath.IsAbs(v.String()) {
		v.SetString(filepath.Join(d.dir, v.String()))
	}
}

// variable is what people write who expect the shell's substitution.
var variable = regexp.MustCompile(`^\$(\w+|\{\w+\})$`)

// secret reads text, {env: NAME} or {file: path}.
func (d *decoder) secret(n ast.Node, s *Secret, path string) {
	if text, ok := scalarOf(n); ok {
		switch {
		case text.kind != kindText:
			d.report(path, "text is wanted; write it in quotes, or use {file: path}")
		case variable.MatchString(text.text):
			d.report(path, "%s is not replaced; write {env: %s}", text.text, strings.Trim(text.text, "${}"))
		case text.text == "":
			d.report(path, "is empty; remove the key, or use {file: path}")
		}
		s.text, s.inline = text.text, true
		return
	}
	var from struct {
		File string `yaml:"file,path"`
		Env  string `yaml:"env"`
	}
	before := len(d.problems)
	d.section(n, reflect.ValueOf(&from).Elem(), path)
	if len(d.problems) > before {
		return
	}
	if (from.File == "") == (from.Env == "") {
		d.report(path, "give one of {file: path} and {env: NAME}")
		return
	}
	s.file = from.File
	if from.Env == "" {
		return
	}
	value, ok := d.env(from.Env)
	if !ok || value == "" {
		d.report(join(path, "env"), "%s is not set in the environment; set it, or use {file: path}", from.Env)
	}
	s.text = value
}

// join makes the path of a key; a key that is no word is quoted.
func join(path, key string) string {
	if !word.MatchString(key) {
		key = strconv.Quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

var word = regexp.MustCompile(`^\w{1,40}$`)

// describe names a node for people.
func describe(n ast.Node) string {
	switch n := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "keys with values"
	case *ast.SequenceNode:
		return "a list"
	default:
		if s, ok := scalarOf(n); ok {
			return quoteShort(s.text)
		}
		return "this"
	}
}
