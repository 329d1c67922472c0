package bridge

import (
	"context"
	"net"
	"time"

	"gateway/broker/packet"
)

// An upstream speaks one version of MQTT with the cloud: paho311 or paho5. It carries packets;
// which message is sent, and what is acknowledged when, is decided by the handover alone. So an
// upstream keeps nothing, resumes nothing and answers nothing by itself.
type upstream interface {
	// connect sends CONNECT over conn, waits for CONNACK until ctx ends, and returns the
	// connection. The connection lives as long as life: when life ends it closes conn, and when
	// conn breaks it ends life with the cause. If connect fails, conn is closed.
	connect(ctx context.Context, conn net.Conn, o connectOptions, life *life, in receiver) (link, error)
	// version is the one that it speaks.
	version() packet.Version
}

// connectOptions are the contents of CONNECT, and the limits of the connection.
type connectOptions struct {
	clientID, username, password string
	prove                        func() (Prover, error) // nil: by user name and password; 5.0 only
	keepAlive                    time.Duration
	announceBridge               bool          // bit 0x80 of the protocol level, 3.1.1 only
	sessionExpiry                time.Duration // how long the cloud keeps the session, 5.0 only
	will                         *packet.Will  // nil: none
	maxPacket                    int           // bytes of one incoming packet
	stall                        time.Duration // for one write to the socket
}

// A welcome is what a CONNACK that lets us in says: whether the cloud has kept the session, and
// what it takes. Before 5.0 it says nothing of the latter.
type welcome struct {
	sessionPresent bool
	window         int        // unacknowledged messages; 0: it does not say
	packet         int        // bytes of one packet; 0: no limit
	qos            packet.QoS // the highest
	noRetain       bool       // it retains nothing
	noWildcard     bool       // it has no subscriptions with wildcards
}

// A link is one connection to the cloud.
type link interface {
	// send sends a PUBLISH with the packet identifier it has. It waits while the connection
	// has no room, and returns an error only after the connection has ended.
	send(p packet.Publish) error
	// answer sends a PUBACK, PUBREC, PUBREL or PUBCOMP. It never waits, so that it may be
	// called when a commit is done.
	answer(a packet.Ack)
	// subscribe sends a SUBSCRIBE and waits for its SUBACK.
	subscribe(ctx context.Context, s packet.Subscribe) (packet.Suback, error)
	// unsubscribe sends an UNSUBSCRIBE and waits for its UNSUBACK.
	unsubscribe(ctx context.Context, u packet.Unsubscribe) error
	// close ends the connection, with DISCONNECT if it still lives, and waits for all its
	// goroutines. It may be called again.
	close()
}

// A receiver takes what the cloud sends, in the order of arrival, from one goroutine. An error
// ends the connection.
type receiver interface {
	// connected comes before everything else.
	connected(l link, w welcome)
	publish(p packet.Publish) error
	// tooLarge is told of a PUBLISH that is larger than it may be, and has been skipped. p has
	// no payload and no properties.
	tooLarge(p packet.Publish, size int) error
	acknowledged(a packet.Ack) error // PUBACK, PUBREC, PUBREL or PUBCOMP
}

// A life is the time from the dialling of a connection to its end, and the cause of the end.
type life struct {
	context.Context
	end  context.CancelCauseFunc // the first cause counts
	sign sign                    // of life from the cloud
}

func newLife() *life {
	ctx, end := context.WithCancelCause(context.Background())
	return &life{Context: ctx, end: end}
}

// cause returns why the connection ended, nil while it lives.
func (l *life) cause() error { return context.Cause(l.Context) }
