package sensors

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// timeLayout is RFC 3339 with milliseconds; times are sent in UTC.
const timeLayout = "2006-01-02T15:04:05.000Z07:00"

// String returns the word that payloads use.
func (q Quality) String() string {
	switch q {
	case Good:
		return "good"
	case Uncertain:
		return "uncertain"
	}
	return "bad"
}

// A Kind says which values a point has.
type Kind byte

// The kinds.
const (
	Number Kind = iota // float64, finite
	Switch             // bool
	Text               // string
)

// Words are the two words of a switch, as people read and write them. An empty word stands for
// "on" or "off".
type Words struct{ On, Off string }

// Word returns the word for a level.
func (w Words) Word(on bool) string {
	switch {
	case on && w.On != "":
		return w.On
	case on:
		return "on"
	case w.Off != "":
		return w.Off
	}
	return "off"
}

// Format returns a value as bare text: the word of a switch, the shortest decimal form of a
// number, a string as it is, and nothing for nil.
func (w Words) Format(v Value) string {
	switch v := v.(type) {
	case bool:
		return w.Word(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case string:
		return v
	}
	return ""
}

// parse understands the words themselves, and on/off, true/false and 1/0, in any case. The
// words come first: whoever calls his "on" "0" means it.
func (w Words) parse(s string) (on, ok bool) {
	switch {
	case strings.EqualFold(s, w.Word(true)):
		return true, true
	case strings.EqualFold(s, w.Word(false)):
		return false, true
	}
	switch strings.ToLower(s) {
	case "on", "true", "1":
		return true, true
	case "off", "false", "0":
		return false, true
	}
	return false, false
}

// ParseValue reads a value of kind k from text. Space around a number or a word is ignored.
func ParseValue(k Kind, w Words, s string) (Value, error) {
	switch k {
	case Number:
		f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, fmt.Errorf("%s is not a number", quote(s))
		}
		return f, nil
	case Switch:
		on, ok := w.parse(strings.TrimSpace(s))
		if !ok {
			return nil, fmt.Errorf("%s is neither %s nor %s", quote(s), w.Word(true), w.Word(false))
		}
		return on, nil
	}
	return strings.ToValidUTF8(s, "\uFFFD"), nil
}

// quote shows text from outside in an error, shortened.
func quote(s string) string {
	const most = 40
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}

// A Format is the form of the payload of readings and states.
type Format byte

// The formats.
const (
	// JSON is an object with value, unit, quality and at, and error when the quality is not
	// good. A switch appears as its word, what was not measured as null.
	JSON Format = iota
	// Plain is the bare value. What was not measured is an empty payload, which also removes
	// the retained value: no old value is left to be taken for a present one.
	Plain
)

// jsonReading is the JSON payload of a reading.
type jsonReading struct {
	Value   any    `json:"value"`
	Unit    string `json:"unit,omitempty"`
	Quality string `json:"quality"`
	Error   string `json:"error,omitempty"`
	At      string `json:"at"`
	undated
}

// payload returns the bytes to publish for a reading.
func payload(r Reading, f Format, w Words, c Calendar) []byte {
	if f == Plain {
		return []byte(w.Format(r.Value))
	}
	m := jsonReading{
		Value:   jsonValue(r.Value, w),
		Unit:    r.Unit,
		Quality: r.Quality.String(),
	}
	day, known := c.date(r.At)
	m.At = formatTime(day)
	if !known {
		m.undated = undated{Quality: m.Quality, Age: time.Since(r.At).Milliseconds()}
		m.Quality = max(r.Quality, Uncertain).String()
	}
	if r.Quality != Good && r.Err != nil {
		m.Error = r.Err.Error()
	}
	return encode(m)
}

func formatTime(t time.Time) string { return t.UTC().Format(timeLayout) }

// jsonValue returns what stands for v in JSON: a switch is its word.
func jsonValue(v Value, w Words) any {
	if on, ok := v.(bool); ok {
		return w.Word(on)
	}
	return v
}

// encode returns v as one line of JSON, with <, > and & as they are. Its callers' types always
// encode: strings, and numbers that sound has let through.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Appendf(nil, "{\"error\":%q}", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// sound checks what a driver says it has measured.
func sound(v Value) error {
	switch v := v.(type) {
	case bool, string:
		return nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return errors.New("the driver's value is not a finite number")
		}
		return nil
	case nil:
		return errors.New("the driver gave no value")
	}
	return fmt.Errorf("the driver gave a %T, which is neither number, switch nor text", v)
}

// same reports whether two values are equal, numbers within a tolerance.
func same(a, b Value, tolerance float64) bool {
	x, okX := a.(float64)
	y, okY := b.(float64)
	if okX && okY {
		return math.Abs(x-y) <= tolerance
	}
	return a == b
}

// bad returns the reading that says why there is no value.
func bad(point, unit string, err error, at time.Time) Reading {
	return Reading{Point: point, Unit: unit, Quality: Bad, Err: err, At: at}
}
