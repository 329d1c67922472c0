package sensors

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of what a command may carry.
const (
	maxCommand = 4096 // bytes of payload
	maxID      = 128  // bytes of the id that comes back with the result
)

// A Command is one message on the command topic of an output.
type Command struct {
	Point       string        // of the output: the command topic without "/set"
	Payload     []byte        // a word, a number, text, or JSON {"value":…, "id":…, "ts":…}
	Retained    bool          // delivered because it was retained, not as it was published
	Age         time.Duration // how long it has waited already, as far as its carrier knows
	Correlation []byte        // comes back as the id of the result when the payload has none
}

// An Outcome says what became of a command.
type Outcome string

// The outcomes.
const (
	Done       Outcome = "done"       // written, and measured to be so
	Expired    Outcome = "expired"    // too old when it came or when its turn came; or its lease ran out
	Refused    Outcome = "refused"    // not understood, out of range, retained, or against a dwell time
	Failed     Outcome = "failed"     // the hardware did not do it, or not measurably
	Superseded Outcome = "superseded" // a newer command of the same point came before its turn
)

// A request is a command that was understood.
type request struct {
	id    string
	value Value
	age   time.Duration // when it came
	came  time.Time
	turn  uint64 // order of arrival
}

// ageAt returns how old the request is by now.
func (r *request) ageAt(now time.Time) time.Duration { return r.age + now.Sub(r.came) }

// parseCommand reads a command for output o. The request has the id even if there is an error.
func parseCommand(c Command, o *Output, now time.Time, day Calendar) (*request, error) {
	r := &request{id: commandID(string(c.Correlation)), age: max(c.Age, 0), came: now}
	if len(c.Payload) > maxCommand {
		return r, fmt.Errorf("the payload has %d bytes; a command has at most %d", len(c.Payload), maxCommand)
	}
	text := string(c.Payload)
	if trimmed := bytes.TrimSpace(c.Payload); len(trimmed) > 0 && trimmed[0] == '{' {
		value, sent, err := r.parseJSON(trimmed)
		if err != nil {
			return r, err
		}
		text = value
		if err := r.sentAt(sent, o.MaxAge, day); err != nil {
			return r, err
		}
	}
	v, err := ParseValue(o.Kind, o.Words, text)
	if err != nil {
		return r, err
	}
	r.value = v
	return r, o.Range.check(v, o.Unit)
}

// parseJSON takes the id from a JSON command and returns its value as text and its time.
func (r *request) parseJSON(payload []byte) (value string, sent time.Time, err error) {
	var m struct{ Value, ID, TS json.RawMessage }
	if err := json.Unmarshal(payload, &m); err != nil {
		return "", sent, fmt.Errorf("not valid JSON: %w", err)
	}
	if id := scalar(m.ID); id != "" {
		r.id = commandID(id)
	}
	value = scalar(m.Value)
	if value == "" && !bytes.Equal(m.Value, []byte(`""`)) {
		return "", sent, errors.New(`the JSON has no "value" that is a word, a number or a text`)
	}
	if len(m.TS) == 0 || bytes.Equal(m.TS, []byte("null")) {
		return value, sent, nil
	}
	sent, err = parseTime(m.TS)
	return value, sent, err
}

// scalar returns a JSON string's content, or a number or boolean as written; "" for the rest.
func scalar(raw json.RawMessage) string {
	if len(raw) == 0 {
		return ""
	}
	switch raw[0] {
	case '"':
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return ""
		}
		return s
	case '{', '[', 'n':
		return ""
	}
	return string(raw)
}

// parseTime reads RFC 3339, or a number of seconds or milliseconds since 1970.
func parseTime(raw json.RawMessage) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, scalar(raw)); err == nil {
		return t, nil
	}
	const firstMilli = 1e11 // as seconds in the year 5138, as milliseconds in 1973
	var f float64
	switch err := json.Unmarshal(raw, &f); {
	case err != nil || f < 0 || f > 1e14:
		return time.Time{}, fmt.Errorf("ts %s is neither a time of RFC 3339 nor seconds or milliseconds since 1970", quote(string(raw)))
	case f < firstMilli:
		f *= 1000
	}
	return time.UnixMilli(int64(f)), nil
}

// sentAt lets the sender's clock make the request older. A time well ahead of ours is refused, if
// ours is known: nobody knows how old such a command is. A clock that is not set yet says at least
// what time it cannot be any more.
func (r *request) sentAt(sent time.Time, maxAge time.Duration, day Calendar) error {
	if sent.IsZero() {
		return nil
	}
	now, known := day.date(r.came)
	age := now.Sub(sent)
	if known && age < -maxAge {
		return fmt.Errorf("ts is %s ahead of this machine's clock: set the clocks", (-age).Round(time.Second))
	}
	r.age = max(r.age, age)
	return nil
}

// commandID makes an id presentable.
func commandID(s string) string {
	if !utf8.ValidString(s) {
		s = hex.EncodeToString([]byte(s))
	}
	if len(s) > maxID {
		s = strings.ToValidUTF8(s[:maxID], "")
	}
	return s
}

// jsonResult is the payload of a result.
type jsonResult struct {
	ID        string  `json:"id,omitempty"`
	Result    Outcome `json:"result"`
	Reason    string  `json:"reason,omitempty"`
	Requested any     `json:"requested,omitempty"`
	Measured  any     `json:"measured"`
}
