package topic_test

import (
	"strings"
	"testing"

	"gateway/broker/topic"
)

func TestSets(t *testing.T) {
	for _, tt := range []struct {
		clause, a, b              string
		overlap, aCovers, bCovers bool
	}{
		{"MQTT-4.7.1-1", "a/#", "a/b/c", true, true, false},
		{"4.7.1.2", "a/#", "a", true, true, false},
		{"4.7.1.2", "a/#", "a/#", true, true, true},
		{"4.7.1.2", "a/#", "a/+/#", true, true, false},
		{"4.7.1.2", "#", "a/#", true, true, false},
		{"4.7.1.2", "+/#", "#", true, false, true},
		{"4.7.1.3", "a/+", "a/b/c", false, false, false},
		{"4.7.1.3", "+/b", "a/+", true, false, false},
		{"4.7.1.3", "+", "a", true, true, false},
		{"4.7.1.3", "+/+", "+/#", true, false, true},
		{"4.7.3", "a/b", "a/c", false, false, false},
		{"4.7.3", "a", "a/b", false, false, false},
		{"MQTT-4.7.2-1", "#", "$SYS/x", false, false, false},
		{"MQTT-4.7.2-1", "+/x", "$SYS/x", false, false, false},
		{"MQTT-4.7.2-1", "$SYS/#", "$SYS/x", true, true, false},
	} {
		if topic.Overlap(tt.a, tt.b) != tt.overlap || topic.Overlap(tt.b, tt.a) != tt.overlap {
			t.Errorf("[%s] Overlap(%q, %q) is not %t both ways", tt.clause, tt.a, tt.b, tt.overlap)
		}
		if topic.Covers(tt.a, tt.b) != tt.aCovers || topic.Covers(tt.b, tt.a) != tt.bCovers {
			t.Errorf("[%s] Covers: %q %q are not %t, %t", tt.clause, tt.a, tt.b, tt.aCovers, tt.bCovers)
		}
	}
}

// TestSetsAndMatch compares what is said of filters with the names that they match: all of up to
// three levels out of a small alphabet.
func TestSetsAndMatch(t *testing.T) {
	var filters, names []string
	var grow func(prefix string, depth int)
	grow = func(prefix string, depth int) {
		for _, level := range []string{"a", "b", "$a", "+", "#"} {
			next := strings.TrimPrefix(prefix+"/"+level, "/")
			filters = append(filters, next)
			if !strings.ContainsAny(next, "+#") {
				names = append(names, next, next+"/c", next+"/c/d/e/f")
			}
			if level != "#" && depth < 3 {
				grow(next, depth+1)
			}
		}
	}
	grow("", 1)
	for _, a := range filters {
		for _, b := range filters {
			both, all := false, true
			for _, n := range names {
				inA, inB := topic.Match(a, n), topic.Match(b, n)
				both = both || inA && inB
				all = all && (inA || !inB)
			}
			if got := topic.Overlap(a, b); got != both {
				t.Fatalf("Overlap(%q, %q) = %t, but names say %t", a, b, got, both)
			}
			// A filter such as a/+/# may cover a/# in a union only; Covers is about one filter.
			if got := topic.Covers(a, b); got && !all {
				t.Fatalf("Covers(%q, %q), but not every name", a, b)
			}
		}
	}
}
