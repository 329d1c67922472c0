package topic

import "strings"

// Overlap reports whether there is a topic that two valid filters both match.
func Overlap(a, b string) bool {
	if hidden(a) && startsWild(b) || hidden(b) && startsWild(a) {
		return false
	}
	for {
		levelA, restA, moreA := strings.Cut(a, "/")
		levelB, restB, moreB := strings.Cut(b, "/")
		switch {
		case levelA == "#" || levelB == "#":
			return true
		case levelA != levelB && levelA != "+" && levelB != "+":
			return false
		case !moreA && !moreB:
			return true
		case !moreA:
			return restB == "#" // which includes the parent level
		case !moreB:
			return restA == "#"
		}
		a, b = restA, restB
	}
}

// Covers reports whether a valid filter matches every topic that another one matches.
func Covers(filter, other string) bool {
	if hidden(other) && startsWild(filter) {
		return false
	}
	for {
		f, filterRest, filterMore := strings.Cut(filter, "/")
		o, otherRest, otherMore := strings.Cut(other, "/")
		switch {
		case f == "#":
			return true
		case o == "#", f != o && f != "+":
			return false
		case !filterMore:
			return !otherMore
		case !otherMore:
			return filterRest == "#" // which includes the parent level
		}
		filter, other = filterRest, otherRest
	}
}
