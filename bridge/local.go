package bridge

import (
	"context"

	"gateway/broker/packet"
)

// A Session is a durable session of the bridge with the local broker. Its queue is a queue of
// the bridge, its subscriptions are outgoing rules of the bridge.
//
// Opening the same session again resumes it: what is unacknowledged comes from Next once more,
// first and in order. All methods may be called at the same time.
type Session interface {
	Outbox
	Inbox
	// SessionPresent reports whether the session existed before it was opened.
	SessionPresent() bool
	// Subscribe returns when the subscriptions are durable.
	Subscribe(s packet.Subscribe) (packet.Suback, error)
	// Unsubscribe returns when that is durable.
	Unsubscribe(u packet.Unsubscribe) (packet.Suback, error)
	// Subscriptions returns the filters of the session's subscriptions, in any order.
	Subscriptions() []string
	// Close leaves the session, which goes on queueing.
	Close() error
}

// An Outbox holds the messages on their way to the cloud.
type Outbox interface {
	// Next returns the next message. Its ID stays the same until it is Done, whatever restarts
	// between. p.Dup: it was returned before, by an earlier opening of the session. released:
	// PUBREC was durable before, only PUBREL is to be sent, and p has no more than ID and QoS.
	Next(ctx context.Context) (p packet.Publish, released bool, err error)
	// Frees reports whether the cloud may have the identifier of a message at QoS 2 for another one:
	// PUBREL has to go before its PUBLISH.
	Frees(id uint16) bool
	// Waiting returns how many messages are not Done, at most: some that are Done between
	// others may be counted.
	Waiting() int
	// Accepted says that PUBREC came. done(nil) says that this is durable: PUBREL may leave.
	Accepted(id uint16, done func(error))
	// Done says that PUBACK or PUBCOMP came, or that the message is given up.
	Done(id uint16)
}

// An Inbox takes the messages of the cloud. Its methods never wait for disk or network; done is
// called once, on any goroutine, and must not block.
type Inbox interface {
	// Publish publishes p locally. done says how it ended: on success PUBACK or PUBREC may
	// leave. At QoS 2 the session knows p.ID until Release and takes no message twice.
	Publish(p packet.Publish, done func(packet.ReasonCode))
	// Release says that PUBREL came. done says that the identifier is durably forgotten: PUBCOMP
	// may leave.
	Release(id uint16, done func(packet.ReasonCode))
	// Forget drops all identifiers that Publish knows: the cloud has lost its session.
	Forget()
}
