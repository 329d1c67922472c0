package ban

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// An index finds a ban among many.
type index struct {
	exact    map[string]*Ban // by KIND:VALUE
	patterns []*Ban
	ranges   map[netip.Prefix]*Ban
	now      func() time.Time
	bits     [2][]int // lengths of the ranges that there are, of IPv4 and of IPv6
}

func newIndex(all []Ban, now func() time.Time) *index {
	x := &index{exact: make(map[string]*Ban), ranges: make(map[netip.Prefix]*Ban), now: now}
	for i := range all {
		b := &all[i]
		switch b.Kind {
		case Pattern:
			x.patterns = append(x.patterns, b)
		case Address:
			p, err := ParseRange(b.Value)
			if err != nil {
				continue // it was told
			}
			x.ranges[p] = b
			if n := family(p.Addr()); !slices.Contains(x.bits[n], p.Bits()) {
				x.bits[n] = append(x.bits[n], p.Bits())
			}
		default:
			x.exact[b.String()] = b
		}
	}
	return x
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// find looks for the very value.
func (x *index) find(k Kind, value string) error {
	if value == "" {
		return nil
	}
	b, ok := x.exact[string(k)+":"+value]
	if !ok || b.over(x.now()) {
		return nil
	}
	return b.err()
}

// client looks for a client identifier.
func (x *index) client(id string) error {
	if err := x.find(Client, id); err != nil {
		return err
	}
	for _, b := range x.patterns {
		if match(b.Value, id) && !b.over(x.now()) {
			return b.err()
		}
	}
	return nil
}

// address looks for the ranges that an address is in.
func (x *index) address(a netip.Addr) error {
	if !a.IsValid() {
		return nil
	}
	a = a.Unmap().WithZone("")
	for _, bits := range x.bits[family(a)] {
		p, err := a.Prefix(bits)
		if err != nil {
			continue
		}
		if b, ok := x.ranges[p]; ok && !b.over(x.now()) {
			return b.err()
		}
	}
	return nil
}

// match reports whether a pattern, in which * stands for any text, is the whole of s.
func match(pattern, s string) bool {
	first, rest, star := strings.Cut(pattern, "*")
	if !star {
		return s == pattern
	}
	s, ok := strings.CutPrefix(s, first)
	if !ok {
		return false
	}
	for {
		first, rest, star = strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(s, first)
		}
		i := strings.Index(s, first)
		if i < 0 {
			return false
		}
		s = s[i+len(first):]
	}
}
