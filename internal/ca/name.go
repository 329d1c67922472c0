package ca

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxCommonName is the upper bound of a common name, in characters (RFC 5280, appendix A.1,
// ub-common-name).
const maxCommonName = 64

// checkName refuses what cannot be a common name, a file name and a user name at once.
func checkName(name string) error {
	switch {
	case name == "" || !utf8.ValidString(name) || utf8.RuneCountInString(name) > maxCommonName:
		return fmt.Errorf("name %q: want 1 to %d characters", name, maxCommonName)
	case strings.HasPrefix(name, ".") || strings.HasPrefix(name, "-"):
		return fmt.Errorf("name %q: must not begin with %q", name, name[:1])
	case strings.ContainsAny(name, `+#/\`):
		return fmt.Errorf("name %q: must not contain + # / and \\, as it becomes a user name and a file name", name)
	}
	for _, r := range name {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("name %q: must not contain %U, which cannot be printed", name, r)
		}
	}
	return nil
}

// checkHost refuses what is not a DNS host name (RFC 1123, section 2.1).
func checkHost(name string) error {
	if len(name) > 253 {
		return fmt.Errorf("%q is too long for a host name", name)
	}
	for label := range strings.SplitSeq(name, ".") {
		bad := strings.IndexFunc(label, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
		})
		if label == "" || len(label) > 63 || bad >= 0 || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("%q is neither a host name nor an IP address", name)
		}
	}
	return nil
}

// fileName is what files are called after a name: an IPv6 address without its colons.
func fileName(name string) string { return strings.ReplaceAll(name, ":", "-") }
