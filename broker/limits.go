package broker

import (
	"time"

	"gateway/broker/session"
	"gateway/broker/topic"
)

// Limits bound what one client can ask of the gateway. The zero value of a field stands for its
// default, which suits a board with 512 MB of memory.
type Limits struct {
	Connections        int           // network connections at a time; default 500
	AddressConnections int           // of them from one address of the network, this machine not counted; default 100
	Handshakes         int           // of them on one listener that have not been let in; half as many from one address; default 100
	ConnectRate        int           // connections per second that are accepted, the rest waits; default 200
	MessageRate        int           // messages per second from one client, before it is slowed down; default any
	ByteRate           int           // their bytes; default any
	RequestRate        int           // PINGREQ, AUTH, and filters to subscribe and to unsubscribe, per second from one client, before it is slowed down; ten seconds' worth, or twice Subscriptions, may come at once; default 200
	Sessions           int           // sessions of all kinds, with and without connection; default 10,000
	PacketSize         int           // bytes of one incoming packet, fixed header included; default 256 KiB
	ReceiveMaximum     uint16        // incoming QoS 1 and 2 messages that are not acknowledged yet, per client; default 500
	Inflight           uint16        // outgoing QoS 1 and 2 messages that are not acknowledged yet, per client; default 100, at most session.MaxWindow
	Subscriptions      int           // per session; default 1,000
	SubscriptionBytes  int           // of the subscriptions of all clients of the network, with 256 for each and 160 for each level that no other has; default 64 MiB
	TopicBytes         int           // of one topic name or filter; default 65,535, as many as there can be
	TopicLevels        int           // of one topic name or filter; default and most topic.MaxLevels
	ClientIDBytes      int           // of one client identifier; default 256
	WillBytes          int           // of one will message; default 16 KiB
	Memory             int           // bytes of the process; default 384 MiB. See memory
	QueueMessages      int           // messages that wait for one session of the network; newer ones are dropped unless Stored says otherwise; default 100,000
	QueueBytes         int           // their bytes, for a session that is in memory only; default 1 MiB
	Stored             session.Quota // of the queue of a durable session of the network; its Messages are QueueMessages at most
	RetainedBytes      int           // of all retained messages, with 512 for each and 384 for each level that no other has; default 64 MiB
	SessionExpiry      time.Duration // longest life of a session of the network without a connection; default 7 days
	TopicAliases       uint16        // per connection and direction; default 32
	AliasBytes         int           // of the topics with an alias, per connection and direction; default 64 KiB
	OutBytes           int           // bytes on their way to one client beyond which QoS 0 is dropped; default 256 KiB
	ConnectTime        time.Duration // from the connection to its CONNECT, TLS included; default 10 s
	AuthTime           time.Duration // for one enhanced authentication, from its first message to its last; default 10 s
	AuthRounds         int           // messages of a client in it; default 8
	AuthBytes          int           // of one of them; default 4 KiB
	WriteTime          time.Duration // for a client that takes nothing to take something; default 30 s
	KeepAlive          time.Duration // longest keep alive that a 5.0 client may ask for, 0: any (MQTT-3.1.2-21)
}

// DefaultLimits returns the limits of which nothing else is said.
func DefaultLimits() Limits { return Limits{}.withDefaults() }

func (l Limits) withDefaults() Limits {
	or(&l.Connections, 500)
	or(&l.AddressConnections, 100)
	or(&l.Handshakes, 100)
	or(&l.ConnectRate, 200)
	or(&l.RequestRate, 200)
	or(&l.Sessions, 10_000)
	or(&l.PacketSize, 256<<10)
	or(&l.ReceiveMaximum, 500)
	or(&l.Inflight, 100)
	or(&l.Subscriptions, 1000)
	or(&l.SubscriptionBytes, 64<<20)
	or(&l.TopicBytes, topic.MaxLength)
	or(&l.TopicLevels, topic.MaxLevels)
	or(&l.ClientIDBytes, 256)
	or(&l.WillBytes, 16<<10)
	or(&l.Memory, 384<<20)
	or(&l.QueueMessages, 100_000)
	or(&l.QueueBytes, 1<<20)
	if most := int64(l.QueueMessages); l.Stored.Messages == 0 || l.Stored.Messages > most {
		l.Stored.Messages = most
	}
	or(&l.RetainedBytes, 64<<20)
	or(&l.SessionExpiry, 7*24*time.Hour)
	or(&l.TopicAliases, 32)
	or(&l.AliasBytes, 64<<10)
	or(&l.OutBytes, 256<<10)
	or(&l.ConnectTime, 10*time.Second)
	or(&l.AuthTime, 10*time.Second)
	or(&l.AuthRounds, 8)
	or(&l.AuthBytes, 4<<10)
	or(&l.WriteTime, 30*time.Second)
	return l
}

func or[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Bounds are limits of one listener, which apply there in place of the server's. The zero value of
// a field stands for the server's.
type Bounds struct {
	Connections              int           // at a time, within the server's
	PacketSize               int           // bytes of one incoming packet
	MessageRate, ByteRate    int           // of one client, before it is slowed down
	ReceiveMaximum, Inflight uint16        // QoS 1 and 2 messages that are not acknowledged yet, from and to one client
	ConnectTime              time.Duration // from the connection to its CONNECT
	KeepAlive                time.Duration // longest keep alive that a 5.0 client may ask for
}

func (b Bounds) within(l *Limits) Bounds {
	or(&b.PacketSize, l.PacketSize)
	or(&b.MessageRate, l.MessageRate)
	or(&b.ByteRate, l.ByteRate)
	or(&b.ReceiveMaximum, l.ReceiveMaximum)
	or(&b.Inflight, l.Inflight)
	or(&b.ConnectTime, l.ConnectTime)
	or(&b.KeepAlive, l.KeepAlive)
	return b
}

// capExpiry lowers a session expiry interval, in seconds, to the limit.
func (l *Limits) capExpiry(seconds uint32) uint32 {
	return uint32(min(int64(seconds), int64(l.SessionExpiry/time.Second)))
}
