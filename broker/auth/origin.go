package auth

import "net/netip"

// Address returns an address as rules, bans and devices compare it: IPv4 as such, and IPv6 without the zone,
// which says by which interface a link-local address is reached and is in no network.
func Address(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// Origin returns what an address is counted as, where too much from one place is turned away. Who has a
// public IPv6 address has a network of 64 bits to choose others from: it is counted as that network. Other
// addresses, those of a site's own network among them, are counted each for itself: there the neighbours
// are other devices.
func Origin(a netip.Addr) netip.Addr {
	a = Address(a)
	if !a.Is6() || !a.IsGlobalUnicast() || a.IsPrivate() {
		return a
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}
