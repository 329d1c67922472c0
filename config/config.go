// Package config reads the gateway's one YAML file into typed structs.
//
// Reading is strict and complete: every unknown key, wrong type, bad unit and impossible
// combination is reported in one go, each with file, line, key and remedy. The tags of the
// fields are the schema:
//
//	yaml:"key"      the key; ",required" must be given; ",path" a file, relative to the
//	                configuration's folder; ",size" a count of bytes; ",text" text that may
//	                look like a number; ",inline" the fields belong to the enclosing struct
//	default:"…"     the value when the key is not given, written as in the file
//	range:"a..b"    the smallest and the largest number, duration or size
//	words:"a b c"   the only words allowed
//
// Durations are written 20ms, 1s, 2m, 1h30m or 7d; sizes 64KiB, 512MB or a count of bytes.
package config

import (
	"path/filepath"
	"time"
)

// A Config is one configuration file, complete with defaults.
type Config struct {
	Gateway   Gateway    `yaml:"gateway"`
	Board     string     `yaml:"board" default:"linux" words:"linux sim"`
	Sim       Sim        `yaml:"sim"` // only with board: sim
	Store     Store      `yaml:"store"`
	Limits    Limits     `yaml:"limits"`
	Auth      Auth       `yaml:"auth"`
	Listeners []Listener `yaml:"listeners"`
	Bridges   []Bridge   `yaml:"bridges"`
	Inputs    []Input    `yaml:"inputs"`
	Outputs   []Output   `yaml:"outputs"`
	Serial    []Serial   `yaml:"serial"`

	// Warnings are what the file may say, but should not be said by accident.
	Warnings Problems `yaml:"-"`

	at places
}

// StorePath is the file of the durable store.
func (c *Config) StorePath() string {
	if c.Store.Path != "" {
		return c.Store.Path
	}
	return filepath.Join(c.Gateway.Data, "store.db")
}

// Gateway is section "gateway": this machine.
type Gateway struct {
	ID                  string `yaml:"id"`                                                                    // default: the host name; names the gateway in the cloud
	Data                string `yaml:"data,path" default:"/var/lib/gateway"`                                  // the folder for all that is kept
	Log                 string `yaml:"log" default:"info" words:"debug info warn error"`                      // the least level that is logged
	UseAnotherServer    string `yaml:"use_another_server"`                                                    // host:port that network clients are sent to, none is let in; for maintenance
	SharedSubscriptions string `yaml:"shared_subscriptions" default:"round_robin" words:"round_robin sender"` // which member gets a message: whose turn it is, or always the same for one publisher
}

// Sim is section "sim": the simulated greenhouse of board: sim.
type Sim struct {
	Speed float64 `yaml:"speed" default:"60" range:"1..3600"` // simulated seconds per second
}

// Store is section "store": what must survive a loss of power.
type Store struct {
	Path            string        `yaml:"path,path"` // default: store.db in gateway.data
	MaxSize         int64         `yaml:"max_size,size" default:"256MB" range:"1MB..1GB"`
	TelemetryCommit time.Duration `yaml:"telemetry_commit" default:"1s" range:"0s..1m"` // how long a reading may wait for the disk
	CommitDelay     time.Duration `yaml:"commit_delay" default:"0s" range:"0s..1s"`     // how long a message waits for the disk
	WriteBudget     int64         `yaml:"write_budget,size" default:"0B" range:"0B..1000GB"`
	CardEndurance   int64         `yaml:"card_endurance,size" default:"0B" range:"0B..10000000GB"`
	Queue           Queue         `yaml:"queue"` // of a session of the network, if not told otherwise
}

// Limits is section "limits": what any client may ask of the broker. The defaults fit a board
// with 512 MB of memory.
type Limits struct {
	Connections        int           `yaml:"connections" default:"500" range:"1..100000"`
	AddressConnections int           `yaml:"address_connections" default:"100" range:"1..100000"`         // of them from one address of the network; this machine does not count
	Handshakes         int           `yaml:"handshakes" default:"100" range:"1..100000"`                  // of them that have not been let in yet, on one listener
	ConnectRate        int           `yaml:"connect_rate" default:"200" range:"1..100000"`                // connections accepted per second; the rest waits
	MessageRate        int           `yaml:"message_rate" default:"0" range:"0..1000000"`                 // messages per second from one client, beyond which it is slowed down; 0 any
	ByteRate           int64         `yaml:"byte_rate,size" default:"0" range:"0..1GiB"`                  // their bytes per second; 0 any
	RequestRate        int           `yaml:"request_rate" default:"200" range:"1..1000000"`               // pings, filters and AUTH per second from one client, beyond which it is slowed down
	Sessions           int           `yaml:"sessions" default:"10000" range:"1..1000000"`                 // with and without connection
	TopicAliases       int           `yaml:"topic_aliases" default:"32" range:"1..1000"`                  // per connection and direction
	TopicAliasesSize   int64         `yaml:"topic_aliases_size,size" default:"64KiB" range:"1KiB..64MiB"` // their topics together, per connection and direction
	PacketSize         int64         `yaml:"packet_size,size" default:"256KiB" range:"1KiB..64MiB"`       // one incoming packet
	ReceiveMaximum     int           `yaml:"receive_maximum" default:"500" range:"1..65535"`              // unacknowledged QoS 1 and 2 messages from one client
	Inflight           int           `yaml:"inflight" default:"100" range:"1..1024"`                      // unacknowledged QoS 1 and 2 messages to one client
	Subscriptions      int           `yaml:"subscriptions" default:"1000" range:"1..100000"`              // per session
	SubscriptionsSize  int64         `yaml:"subscriptions_size,size" default:"64MiB" range:"64KiB..1GiB"` // those of all clients, with 256 bytes for each and 160 for each level that no other has
	TopicSize          int64         `yaml:"topic_size,size" default:"65535B" range:"32B..65535B"`        // one topic name or filter
	TopicLevels        int           `yaml:"topic_levels" default:"128" range:"4..128"`
	ClientIDSize       int64         `yaml:"client_id_size,size" default:"256B" range:"23B..64KiB"`   // one client identifier
	WillSize           int64         `yaml:"will_size,size" default:"16KiB" range:"256B..1MiB"`       // one will message
	Memory             int64         `yaml:"memory,size" default:"384MiB" range:"32MiB..64GiB"`       // of the process; from half of it on little is taken from clients
	Queue              int           `yaml:"queue" default:"100000" range:"1..10000000"`              // messages that wait for one session; newer ones are dropped
	QueueSize          int64         `yaml:"queue_size,size" default:"1MiB" range:"1KiB..256MiB"`     // their bytes, for a session that is in memory only
	RetainedSize       int64         `yaml:"retained_size,size" default:"64MiB" range:"256KiB..1GiB"` // all retained messages, with 512 bytes for each
	OutputSize         int64         `yaml:"output_size,size" default:"256KiB" range:"4KiB..64MiB"`   // bytes on their way to one client beyond which QoS 0 is dropped
	SessionExpiry      time.Duration `yaml:"session_expiry" default:"7d" range:"1s..365d"`            // longest life of a session without a connection
	ConnectTimeout     time.Duration `yaml:"connect_timeout" default:"10s" range:"1s..5m"`            // from accept to CONNECT, TLS handshake included
	AuthTimeout        time.Duration `yaml:"auth_timeout" default:"10s" range:"1s..5m"`               // for one enhanced authentication
	AuthRounds         int           `yaml:"auth_rounds" default:"8" range:"2..100"`                  // messages of a client in it
	AuthDataSize       int64         `yaml:"auth_data_size,size" default:"4KiB" range:"256B..64KiB"`  // one of them
	WriteTimeout       time.Duration `yaml:"write_timeout" default:"30s" range:"1s..10m"`             // for a client that takes nothing to take something
	KeepAlive          time.Duration `yaml:"keep_alive" default:"0s" range:"0s..18h12m15s"`           // longest that an MQTT 5.0 client may ask for; 0s any
	FailedLogins       int           `yaml:"failed_logins" default:"5" range:"1..1000"`               // in a row, for a user name or a client identifier, before the next has to wait; four times as many for an address
	LoginDelay         time.Duration `yaml:"login_delay" default:"5m" range:"1s..24h"`                // the longest such wait
	ClientConnects     int           `yaml:"client_connects" default:"60" range:"1..100000"`          // of one client identifier in a minute, before it has to wait; this machine does not count
}
