package broker

import "slices"

// Filters are those of a session's subscriptions, each once, in order. Most sessions have one or two,
// for which a list takes less memory than a map.
type filters []string

func (f filters) has(filter string) bool {
	_, ok := slices.BinarySearch(f, filter)
	return ok
}

// add adds a filter, and reports whether it was there before.
func (f *filters) add(filter string) (existed bool) {
	i, existed := slices.BinarySearch(*f, filter)
	if !existed {
		*f = slices.Insert(*f, i, filter)
	}
	return existed
}

// remove removes a filter, if it is there.
func (f *filters) remove(filter string) {
	if i, ok := slices.BinarySearch(*f, filter); ok {
		*f = slices.Delete(*f, i, i+1)
	}
	if len(*f) == 0 {
		*f = nil
	}
}
