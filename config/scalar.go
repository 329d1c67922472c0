package config

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// A kind is how a scalar is written in the file.
type kind byte

const (
	kindText   kind = iota
	kindNumber      // 17, 0.5
	kindBool        // true, false
	kindAny         // a default of the schema
)

type scalar struct {
	text string
	kind kind
}

// scalarOf returns the text of a single value.
func scalarOf(n ast.Node) (scalar, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return scalar{n.Value, kindText}, true
	case *ast.LiteralNode:
		return scalar{n.Value.Value, kindText}, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return scalar{n.GetToken().Value, kindNumber}, true
	case *ast.BoolNode:
		return scalar{n.GetToken().Value, kindBool}, true
	}
	return scalar{}, false
}

// setScalar sets v from what the file says. It returns what is wrong with it, or nothing.
func setScalar(v reflect.Value, f field, s scalar) string {
	switch {
	case v.Type() == durationType:
		return setNumber(v.SetInt, f, s, parseDuration)
	case v.Kind() == reflect.Int64 && f.size:
		return setNumber(v.SetInt, f, s, parseSize)
	case v.Kind() == reflect.Int, v.Kind() == reflect.Int64:
		return setNumber(v.SetInt, f, s, parseInt)
	case v.Kind() == reflect.Float64:
		return setNumber(v.SetFloat, f, s, parseFloat)
	case v.Kind() == reflect.Bool:
		if s.kind != kindBool && s.kind != kindAny {
			return fmt.Sprintf("true or false, not %s", quoteShort(s.text))
		}
		v.SetBool(strings.EqualFold(s.text, "true"))
		return ""
	default:
		return setText(v, f, s)
	}
}

func setText(v reflect.Value, f field, s scalar) string {
	if len(f.words) > 0 && !slices.Contains(f.words, s.text) {
		return fmt.Sprintf("%s, not %s", strings.Join(f.words, " or "), quoteShort(s.text))
	}
	if s.kind != kindText && s.kind != kindAny && !(f.text && s.kind == kindNumber) {
		return fmt.Sprintf("text is wanted; write it in quotes: %q", s.text)
	}
	v.SetString(s.text)
	return ""
}

// setNumber parses and bounds one ordered value.
func setNumber[T cmp.Ordered](set func(T), f field, s scalar, parse func(string) (T, error)) string {
	x, err := parse(s.text)
	if err != nil {
		return fmt.Sprintf("%v, not %s", err, quoteShort(s.text))
	}
	if lo, hi, ok := strings.Cut(f.bounds, ".."); ok {
		low, err1 := parse(lo)
		high, err2 := parse(hi)
		if err1 != nil || err2 != nil {
			return fmt.Sprintf("range %q of the schema is malformed", f.bounds)
		}
		if x < low || x > high {
			return fmt.Sprintf("from %s to %s, not %s", lo, hi, s.text)
		}
	}
	set(x)
	return ""
}

var (
	errDuration = errors.New("a time with its unit, as 20ms, 1s, 2m, 1h30m or 7d")
	errSize     = errors.New("a size, as 64KiB or 512MB")
	errInt      = errors.New("a whole number")
	errFloat    = errors.New("a number")
)

// parseDuration is time.ParseDuration with days; only 0 goes without a unit.
func parseDuration(s string) (int64, error) {
	days, rest, ok := strings.Cut(s, "d")
	if !ok {
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, errDuration
		}
		return int64(d), nil
	}
	n, err := strconv.ParseUint(days, 10, 16)
	if err != nil {
		return 0, errDuration
	}
	var more time.Duration
	if rest != "" {
		if more, err = time.ParseDuration(rest); err != nil || more < 0 || more >= 24*time.Hour {
			return 0, errDuration
		}
	}
	return int64(time.Duration(n)*24*time.Hour + more), nil
}

// units of sizes; the longest suffix first.
var units = []struct {
	name  string
	bytes int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9},
	{"B", 1}, {"", 1},
}

func parseSize(s string) (int64, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 63)
		if err != nil || int64(n) > math.MaxInt64/u.bytes {
			return 0, errSize
		}
		return int64(n) * u.bytes, nil
	}
	return 0, errSize
}

// parseInt takes decimal digits only: 010 and 0x10 mean different things to different people.
func parseInt(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || strconv.FormatInt(n, 10) != s {
		return 0, errInt
	}
	return n, nil
}

func parseFloat(s string) (float64, error) {
	x, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsInf(x, 0) || math.IsNaN(x) {
		return 0, errFloat
	}
	return x, nil
}

// quoteShort quotes text for a message, long text shortened.
func quoteShort(s string) string {
	const most = 40
	if r := []rune(s); len(r) > most {
		return strconv.Quote(string(r[:most])) + "…"
	}
	return strconv.Quote(s)
}

// suggest names the known key nearest to an unknown one, or all of them.
func suggest(key string, fields []field) string {
	best, distance := "", 3
	var all []string
	for _, f := range fields {
		all = append(all, f.key)
		if n := editDistance(key, f.key); n < distance && n < len(f.key) {
			best, distance = f.key, n
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	return "known here: " + strings.Join(all, ", ")
}

// editDistance counts the bytes to insert, remove or replace (Levenshtein); keys of very
// different lengths are not compared further.
func editDistance(a, b string) int {
	if d := len(a) - len(b); d > 3 || d < -3 {
		return 4
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
