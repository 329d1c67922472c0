// Package topic knows topic names and topic filters (clause 4.7 of MQTT 3.1.1 and 5.0): what is
// valid, what matches, and how to find the matches among many.
//
// Clause ids are those of MQTT 5.0.
package topic

import (
	"strings"
	"unicode/utf8"
)

const (
	// MaxLength is the largest number of bytes in a topic name or filter [MQTT-4.7.3-3].
	MaxLength = 65_535
	// MaxLevels is the largest number of levels in a topic name or filter. The standard sets no
	// limit; this one bounds how deep a tree and a search can go.
	MaxLevels = 128
)

// An Error tells why a topic name or filter is not valid.
type Error struct {
	Clause string // a conformance statement or a section of MQTT 5.0
	Text   string
}

func (e *Error) Error() string { return e.Text + " [" + e.Clause + "]" }

// ValidName reports, as an *Error, why messages cannot be published to s.
func ValidName(s string) error {
	if err := validText(s); err != nil {
		return err
	}
	if strings.ContainsAny(s, "+#") {
		return &Error{"MQTT-4.7.0-1", "topic name contains a wildcard"}
	}
	return nil
}

// ValidFilter reports, as an *Error, why s cannot be subscribed to. Filters of shared
// subscriptions are checked as such.
func ValidFilter(s string) error {
	if err := validText(s); err != nil {
		return err
	}
	_, rest, _, err := ParseShared(s)
	if err != nil {
		return err
	}
	for more := true; more; {
		var level string
		level, rest, more = strings.Cut(rest, "/")
		switch {
		case level == "#" && more:
			return &Error{"MQTT-4.7.1-1", "# is not the last level of the topic filter"}
		case len(level) > 1 && strings.Contains(level, "#"):
			return &Error{"MQTT-4.7.1-1", "# shares a level of the topic filter"}
		case len(level) > 1 && strings.Contains(level, "+"):
			return &Error{"MQTT-4.7.1-2", "+ shares a level of the topic filter"}
		}
	}
	return nil
}

// validText checks what names and filters have in common.
func validText(s string) error {
	switch {
	case s == "":
		return &Error{"MQTT-4.7.3-1", "topic is empty"}
	case len(s) > MaxLength:
		return &Error{"MQTT-4.7.3-3", "topic is longer than 65,535 bytes"}
	case strings.IndexByte(s, 0) >= 0:
		return &Error{"MQTT-4.7.3-2", "topic contains the null character"}
	case !utf8.ValidString(s):
		return &Error{"MQTT-1.5.4-1", "topic is not well-formed UTF-8"}
	case strings.Count(s, "/") >= MaxLevels:
		return &Error{"4.7.3", "topic has more than 128 levels"}
	}
	return nil
}

// ParseShared splits the filter of a shared subscription, $share/<group>/<rest>. For any other
// filter ok is false and rest is the filter. It does not check rest beyond its presence, see
// ValidFilter.
func ParseShared(filter string) (group, rest string, ok bool, err error) {
	shared, ok := strings.CutPrefix(filter, "$share/")
	if !ok {
		return "", filter, false, nil
	}
	group, rest, _ = strings.Cut(shared, "/")
	switch {
	case group == "":
		return "", "", false, &Error{"MQTT-4.8.2-1", "shared subscription has an empty share name"}
	case strings.ContainsAny(group, "+#"):
		return "", "", false, &Error{"MQTT-4.8.2-2", "share name contains a wildcard"}
	case rest == "":
		return "", "", false, &Error{"MQTT-4.8.2-2", "shared subscription has no topic filter"}
	}
	return group, rest, true, nil
}

// Match reports whether a valid filter matches a valid name. The filter of a shared subscription
// is to be given without its prefix, see ParseShared.
func Match(filter, name string) bool {
	if hidden(name) && startsWild(filter) {
		return false
	}
	for {
		f, filterRest, filterMore := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		n, nameRest, nameMore := strings.Cut(name, "/")
		if f != "+" && f != n {
			return false
		}
		if !nameMore {
			return !filterMore || filterRest == "#" // "#" includes the parent level
		}
		if !filterMore {
			return false
		}
		filter, name = filterRest, nameRest
	}
}

// hidden reports whether a name is not seen by filters that start with a wildcard
// [MQTT-4.7.2-1].
func hidden(name string) bool { return strings.HasPrefix(name, "$") }

func startsWild(filter string) bool {
	return filter != "" && (filter[0] == '+' || filter[0] == '#')
}
