package sensors

import (
	"bytes"
	"encoding/json"
	"time"
)

// A Calendar dates a moment of this process: what time of day it was, as far as that is known now,
// and whether it is. The same moment may get another date later: a board without a battery for its
// clock learns the time of day after its first readings.
type Calendar func(at time.Time) (day time.Time, known bool)

func (c Calendar) date(at time.Time) (day time.Time, known bool) {
	if c == nil {
		return at, true
	}
	return c(at)
}

// Undated is in the payload of a reading that was published before the time of day was known. Its
// quality is not better than uncertain, and what at says is the earliest that it can be.
type undated struct {
	Quality string `json:"undated,omitempty"` // what it will be when it has a date
	Age     int64  `json:"age_ms,omitempty"`  // of the reading when it was published
}

// Redate returns the JSON payload of a reading with its date and its quality, for one that was
// published, at the time of day given, before that was known. Other payloads are returned as they
// are.
func Redate(payload []byte, published time.Time) []byte {
	if !bytes.Contains(payload, []byte(`,"undated":"`)) {
		return payload
	}
	var m jsonReading
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields() // it would be somebody else's
	if err := d.Decode(&m); err != nil || d.More() || m.undated.Quality == "" {
		return payload
	}
	m.Quality = m.undated.Quality
	m.At = formatTime(published.Add(-time.Duration(m.Age) * time.Millisecond))
	m.undated = undated{}
	return encode(m)
}
