package serial

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gateway/sensors"
)

// A Format says how the fields of a frame are found.
type Format byte

// The formats.
const (
	JSON   Format = iota // one JSON value; a field is a path: "air", "sensors.0.t"
	Split                // columns between separators; a field is a column, the first is "0"
	Regexp               // RE2 syntax; a field is the name or number of a group
)

// A Frame maps frames of one sort to points. A frame may be of several sorts.
type Frame struct {
	Format    Format
	Match     string  // only frames that this regular expression matches; "": all
	Separator string  // Split: "" stands for ","
	Pattern   string  // Regexp: frames that it does not match are of another sort
	Fields    []Field // each must be in every frame of this sort
}

// A Field is one value of a frame.
type Field struct {
	Field       string // where it is: see Format
	Point       string
	Kind        sensors.Kind
	Words       sensors.Words // of a switch
	Unit        string
	Calibration sensors.Calibration // of a number
}

// A sort is a Frame made ready.
type sort struct {
	Frame
	match, pattern *regexp.Regexp
	paths          [][]string // JSON: per field
	columns        []int      // Split, Regexp: per field
	seen           bool       // a frame of this sort has come
}

func newSort(f Frame) (s *sort, err error) {
	s = &sort{Frame: f}
	if f.Match != "" {
		if s.match, err = regexp.Compile(f.Match); err != nil {
			return nil, fmt.Errorf("match: %w", err)
		}
	}
	if f.Format == Regexp {
		if s.pattern, err = regexp.Compile(f.Pattern); err != nil {
			return nil, fmt.Errorf("pattern: %w", err)
		}
	}
	if f.Separator == "" {
		s.Separator = ","
	}
	for _, field := range f.Fields {
		switch f.Format {
		case JSON:
			s.paths = append(s.paths, strings.Split(field.Field, "."))
			continue
		case Regexp:
			if i := s.pattern.SubexpIndex(field.Field); i > 0 {
				s.columns = append(s.columns, i)
				continue
			}
		}
		column, err := strconv.Atoi(field.Field)
		if err != nil || column < 0 || f.Format == Regexp && column > s.pattern.NumSubexp() {
			return nil, fmt.Errorf("point %s: the frame has no field %q", field.Point, field.Field)
		}
		s.columns = append(s.columns, column)
	}
	return s, nil
}

// A fieldValue is what a frame says about one field.
type fieldValue struct {
	field *Field
	value sensors.Value
	err   error
}

// values returns what the frame says about each field; mine tells whether it is of this sort.
func (s *sort) values(frame string) (all []fieldValue, mine bool) {
	if s.match != nil && !s.match.MatchString(frame) {
		return nil, false
	}
	var find func(i int) (string, error)
	switch s.Format {
	case JSON:
		var doc any
		if err := json.Unmarshal([]byte(frame), &doc); err != nil {
			find = func(int) (string, error) { return "", fmt.Errorf("not valid JSON: %w", err) }
			break
		}
		find = func(i int) (string, error) { return walk(doc, s.paths[i]) }
	case Split:
		columns := strings.Split(frame, s.Separator)
		find = func(i int) (string, error) {
			if s.columns[i] >= len(columns) {
				return "", fmt.Errorf("no column %d: the frame has %d", s.columns[i], len(columns))
			}
			return columns[s.columns[i]], nil
		}
	case Regexp:
		groups := s.pattern.FindStringSubmatch(frame)
		if groups == nil {
			return nil, false
		}
		find = func(i int) (string, error) { return groups[s.columns[i]], nil }
	}
	for i := range s.Fields {
		v := fieldValue{field: &s.Fields[i]}
		text, err := find(i)
		if err == nil {
			v.value, err = sensors.ParseValue(v.field.Kind, v.field.Words, text)
		}
		if f, ok := v.value.(float64); ok {
			v.value = v.field.Calibration.Apply(f)
		}
		v.err = err
		all = append(all, v)
	}
	return all, true
}

// walk follows a path through objects by key and arrays by index, and returns what is there as
// text.
func walk(doc any, path []string) (string, error) {
	for i, step := range path {
		var next any
		found := false
		switch d := doc.(type) {
		case map[string]any:
			next, found = d[step]
		case []any:
			if n, err := strconv.Atoi(step); err == nil && n >= 0 && n < len(d) {
				next, found = d[n], true
			}
		}
		if !found {
			return "", fmt.Errorf("the frame has no %q", strings.Join(path[:i+1], "."))
		}
		doc = next
	}
	switch v := doc.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	case nil:
		return "", errors.New("the device reports null")
	}
	return "", fmt.Errorf("%q is an object or an array", strings.Join(path, "."))
}

// points returns the points of all sorts, each once.
func points(sorts []*sort) []string {
	var all []string
	for _, s := range sorts {
		for _, f := range s.Fields {
			if !slices.Contains(all, f.Point) {
				all = append(all, f.Point)
			}
		}
	}
	return all
}
