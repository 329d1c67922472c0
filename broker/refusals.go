package broker

import (
	"errors"
	"slices"
	"sync/atomic"

	"gateway/broker/packet"
)

// bounded are the limits for which something is refused, as the configuration calls them. What is only
// slowed down, or waits, or is dropped, is counted elsewhere.
var bounded = [...]string{
	"connections", "address_connections", "listener_connections", "handshakes", "connect_timeout",
	"sessions", "client_id_size", "will_size", "auth_timeout", "auth_rounds", "auth_data_size",
	"packet_size", "properties", "filters", "receive_maximum", "topic_size", "topic_levels", "topic_aliases_size",
	"subscriptions", "subscriptions_size", "retained_size", "memory",
}

// Refusals count what was refused for each limit, in the order of bounded.
type Refusals [len(bounded)]atomic.Int64

// Of returns how often a limit has refused something.
func (r *Refusals) Of(limit string) int64 {
	if i := slices.Index(bounded[:], limit); i >= 0 {
		return r[i].Load()
	}
	return 0
}

// add counts a refusal. The empty limit is none.
func (r *Refusals) add(limit string) {
	if i := slices.Index(bounded[:], limit); i >= 0 {
		r[i].Add(1)
	}
}

// count counts what an error says was refused for a limit.
func (r *Refusals) count(err error) {
	if e, ok := errors.AsType[*packet.Error](err); ok {
		r.add(e.Limit)
	}
}
