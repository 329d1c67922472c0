package linux

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/warthog618/go-gpiocdev"

	"gateway/board"
)

// suggestions is how many names an error lists.
const suggestions = 8

var errAmbiguous = errors.New("ambiguous")

// A place is where a line is: a chip and the offset on it.
type place struct {
	chip   string // "gpiochip0"
	offset int
	name   string // as the kernel names the line, or ""
}

// find looks for a line by its name or by "gpiochip0:17". It looks anew each time, because
// chips come and go.
func find(name string) (place, error) {
	chip, number, ok := strings.Cut(name, ":")
	if offset, err := strconv.Atoi(number); ok && err == nil && strings.HasPrefix(chip, "gpiochip") {
		return findOffset(chip, offset)
	}
	return findName(name)
}

func findOffset(name string, offset int) (place, error) {
	chip, err := gpiocdev.NewChip(name)
	if errors.Is(err, fs.ErrNotExist) {
		return place{}, faultf(board.ErrGone, "line %s:%d: there is no chip %s on this machine; there is %s",
			name, offset, name, orNothing(gpiocdev.Chips()))
	}
	if err != nil {
		return place{}, chipFault(name, err)
	}
	defer chip.Close()
	info, err := chip.LineInfo(offset)
	if errors.Is(err, gpiocdev.ErrInvalidOffset) {
		return place{}, faultf(err, "line %s:%d: %s has the lines 0 to %d", name, offset, name, chip.Lines()-1)
	}
	if err != nil {
		return place{}, chipFault(name, err)
	}
	return place{name, offset, info.Name}, nil
}

func findName(name string) (place, error) {
	var places []place
	var names []string
	var closed error // why a chip could not be looked at
	for _, c := range gpiocdev.Chips() {
		lines, err := linesOf(c)
		if err != nil {
			closed = chipFault(c, err)
			continue
		}
		for _, l := range lines {
			switch l.name {
			case "", "-", "_": // the ways to say that a line has no name
			case name:
				places = append(places, l)
			default:
				names = append(names, l.name)
			}
		}
	}
	switch {
	case len(places) == 1:
		return places[0], nil
	case len(places) > 1:
		return place{}, faultf(errAmbiguous, "line %s is there more than once: write %s:%d or %s:%d", name,
			places[0].chip, places[0].offset, places[1].chip, places[1].offset)
	case closed != nil && len(names) == 0:
		return place{}, fmt.Errorf("line %s: %w", name, closed)
	}
	return place{}, faultf(board.ErrGone, "line %s: there is no line of that name; there is %s", name,
		orNothing(similar(name, names)))
}

// linesOf returns the lines of one chip.
func linesOf(name string) ([]place, error) {
	chip, err := gpiocdev.NewChip(name)
	if errors.Is(err, gpiocdev.ErrNotCharacterDevice) {
		return nil, nil // a second name for a chip that has been or will be seen under its first
	}
	if err != nil {
		return nil, err
	}
	defer chip.Close()
	lines := make([]place, chip.Lines())
	for i := range lines {
		info, err := chip.LineInfo(i)
		if err != nil {
			return nil, err
		}
		lines[i] = place{name, i, info.Name}
	}
	return lines, nil
}

func chipFault(chip string, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return faultf(err, "no permission to open /dev/%s: add the user to the group that owns it, as a rule gpio", chip)
	case lost(err):
		return faultf(board.ErrGone, "%s is no longer there", chip)
	}
	return fmt.Errorf("%s: %w", chip, err)
}

// similar returns the names most like the one that was not found: those with the same number
// first, then those with the same beginning.
func similar(name string, names []string) []string {
	likeness := func(other string) (n int) {
		if d := digits(name); d != "" && d == digits(other) {
			n += 100
		}
		a, b := strings.ToLower(name), strings.ToLower(other)
		for i := 0; i < min(len(a), len(b)) && a[i] == b[i]; i++ {
			n++
		}
		return n
	}
	names = slices.Clone(names)
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(likeness(b), likeness(a)) })
	names = slices.Compact(names)
	if len(names) > suggestions {
		rest := len(names) - suggestions
		names = append(names[:suggestions], fmt.Sprintf("%d more", rest))
	}
	return names
}

func digits(s string) string {
	return strings.Map(func(r rune) rune {
		if r < '0' || r > '9' {
			return -1
		}
		return r
	}, s)
}

func orNothing(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
