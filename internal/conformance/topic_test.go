package conformance

import (
	"fmt"
	"strings"
	"testing"

	"gateway/broker/packet"
)

// Filters match as the standard says: level by level, and nothing is made equal that is not.
func TestMatching(t *testing.T) {
	every(t, func(s *site) {
		pub := s.connect(clean("pub"))
		for i, tt := range []struct {
			filter  string
			matches string // separated by spaces
			not     string
		}{
			{"a/b", "a/b", "a a/ a/b/ /a/b A/b a/B"},
			{"a/+", "a/b a/", "a a/b/c /a/b"},
			{"+/b", "a/b /b", "a/b/c b"},
			{"a/+/c", "a/b/c a//c", "a/c a/b/d a/b/c/d"},
			{"+/+", "a/b / /a a/", "a a/b/c"},
			{"a/#", "a a/ a/b a/b/c", "ab /a b/a"},
			{"#", "a / a/b //", ""},
			{"+/#", "a a/b /", ""},
			{"a/+/#", "a/b a/b/c a/", "a"},
			{"/", "/", "// a/"},
			{"//", "//", "/ ///"},
			{"a\u00e9", "a\u00e9", "ae\u0301 a\u00c9 a"}, // composed and decomposed are not the same
			{"a b", "", "a"},
			{"\uFEFFa", "\uFEFFa", "a"},
			{"a/\U0001F600/+", "a/\U0001F600/b", "a/b"},
		} {
			sub := s.subscriber(clean("sub"), filter(fmt.Sprintf("%d/%s", i, tt.filter), 1))
			for _, name := range strings.Fields(tt.not) {
				pub.publish(publish(fmt.Sprintf("%d/%s", i, name), "no", 1, 1))
			}
			for _, name := range strings.Fields(tt.matches) {
				name = fmt.Sprintf("%d/%s", i, name)
				pub.publish(publish(name, "yes", 1, 1))
				sub.take("PUBLISH " + name + "=yes q1")
			}
			sub.silent()
			sub.leave()
		}
	})
}

// A topic that begins with $ is matched by no filter that begins with a wildcard.
func TestDollar(t *testing.T) {
	every(t, func(s *site) {
		pub := s.connect(clean("pub"))
		for f, name := range map[string]string{"=+/%": "/%", "=+/%/#": "/%/z", "=+/+/%": "/y/%"} {
			sub := s.subscriber(clean("sub"), filter(f, 1))
			pub.publish(publish("=$x"+name, "no", 1, 1), publish("=x"+name, "yes", 1, 2))
			sub.expect("PUBLISH x" + strings.ReplaceAll(name, "%", s.prefix) + "=yes q1")
			sub.leave()
		}
		sub := s.subscriber(clean("sub"), filter("=$x/+/%", 1))
		pub.publish(publish("=$x/y/%", "named", 1, 4))
		sub.take("PUBLISH $x/y/" + s.prefix + "=named q1")
	})
}

// Filters that are none are refused, one by one or with the connection.
func TestInvalidFilter(t *testing.T) {
	every(t, func(s *site) {
		for _, f := range []string{"a/#/b", "#/a", "a#", "#a", "a/b#", "##", "a+", "+a", "a/+b/c", "a/b+", "++", "=", "=$share/g", "=$share//a", "=$share/g/", "=$share/+/a", "=$share/g#/a"} {
			if s.v < packet.V5 && strings.HasPrefix(f, "=$share") {
				continue
			}
			w := s.connect(clean("a"))
			w.send(subscribe(1, filter(f, 0)))
			switch got := w.read(); got {
			case "SUBACK 1 80", "SUBACK 1 8f", "closed":
			default:
				if !strings.HasPrefix(got, "DISCONNECT ") {
					s.t.Errorf("%s: got %q", f, got)
				}
			}
		}
	})
}

// The longest topic is 65,535 bytes long.
func TestLongTopic(t *testing.T) {
	every(t, func(s *site) {
		name := strings.Repeat("x", 65535-len(s.topic("")))
		sub := s.subscriber(clean("sub"), filter(name, 1))
		s.connect(clean("pub")).publish(publish(name, "x", 1, 1))
		sub.take("PUBLISH " + name + "=x q1")
	})
}
