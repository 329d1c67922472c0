package config

import "time"

// A Bridge is an entry of section "bridges": the connection to one broker upstream.
type Bridge struct {
	Name           string        `yaml:"name,required"`
	Version        string        `yaml:"version,text" default:"3.1.1" words:"3.1.1 5.0"` // of MQTT
	URL            string        `yaml:"url,required"`                                   // mqtt://host:port (default 1883), mqtts (8883), ws (80) or wss (443), these with /path
	Fallback       []string      `yaml:"fallback"`                                       // more URLs of the same cloud, in order of preference
	ReturnAfter    time.Duration `yaml:"return_after" default:"5m" range:"1s..24h"`      // how often a bridge on a fallback looks for a URL that it prefers
	Proxy          string        `yaml:"proxy"`                                          // http://host:port or socks5://host:port
	ProxyUsername  string        `yaml:"proxy_username"`
	ProxyPassword  Secret        `yaml:"proxy_password"`
	ClientID       string        `yaml:"client_id"` // default: <gateway.id>-<name>
	Username       string        `yaml:"username"`
	Password       Secret        `yaml:"password"`
	Method         string        `yaml:"method" words:"SCRAM-SHA-512 SCRAM-SHA-256 SCRAM-SHA-1"` // by which user name and password are shown; none: as they are; 5.0 only
	TLS            BridgeTLS     `yaml:"tls"`
	KeepAlive      time.Duration `yaml:"keep_alive" default:"25s" range:"5s..18h12m15s"`                 // whole seconds: the wire carries 16 bits of them
	Window         int           `yaml:"window" range:"1..1024"`                                         // unacknowledged messages; default: 20, with 5.0 256 and never more than the cloud says; with 3.1.1 mosquitto loses what exceeds its max_inflight_messages, 20
	MaxPacket      int64         `yaml:"max_packet,size" default:"1MiB" range:"1KiB..256MiB"`            // one packet of the cloud; a larger message is acknowledged, counted and dropped
	SessionExpiry  time.Duration `yaml:"session_expiry" default:"30d" range:"1m..3650d"`                 // how long the cloud keeps the session while the link is down; 5.0 only
	LostSession    string        `yaml:"cloud_lost_session" default:"resend" words:"resend dead_letter"` // what becomes of QoS 2 messages that may have arrived, when the cloud comes back without its session
	ReplayRate     ReplayRate    `yaml:"replay_rate"`
	ConnectTimeout time.Duration `yaml:"connect_timeout" default:"10s" range:"1s..5m"`      // name, TCP, TLS and CONNACK together
	DNSTimeout     time.Duration `yaml:"dns_timeout" default:"5s" range:"100ms..1m"`        // of connect_timeout, for the name
	HandshakeTime  time.Duration `yaml:"handshake_timeout" default:"10s" range:"100ms..1m"` // of connect_timeout, for proxy, TLS and WebSocket
	AckTimeout     time.Duration `yaml:"ack_timeout" default:"30s" range:"1s..1h"`          // without an acknowledgement the link is taken for dead
	Backoff        Backoff       `yaml:"backoff"`
	Announce       bool          `yaml:"announce" default:"false"`                     // tell the cloud that this is a bridge, so that it sends nothing back; mosquitto understands it, clouds of large providers refuse it
	CircleLimit    int           `yaml:"circle_limit" default:"50" range:"0..1000000"` // how many copies of the same message may cross within 15 s before one is stopped; 3.1.1 only; 0 any
	StateTopic     string        `yaml:"state_topic"`                                  // upstream, retained; default: gateway/<client_id>/state
	Queue          Queue         `yaml:"queue"`                                        // what waits for the cloud
	Rules          []Rule        `yaml:"rules"`
}

// BridgeTLS is the client's side of a connection. Everything may stay empty with mqtts: the
// system's CAs and the host of the URL are used then, and no certificate is shown.
type BridgeTLS struct {
	CA          string `yaml:"ca,path"`                                  // PEM, the CAs to trust, instead of the system's
	Cert        string `yaml:"cert,path"`                                // PEM, the certificate to show
	Key         string `yaml:"key,path"`                                 // PEM
	KeyPassword Secret `yaml:"key_password"`                             // of an encrypted key
	ServerName  string `yaml:"server_name"`                              // the name that the server's certificate must carry; default: the URL's host
	VerifyName  string `yaml:"verify_name" default:"san" words:"san cn"` // where it must stand: subject alternative names, or common name
}

// Backoff is the wait before the next attempt to connect: between Min and Max, doubled and
// jittered each time.
type Backoff struct {
	Min time.Duration `yaml:"min" default:"1s" range:"100ms..1h"`
	Max time.Duration `yaml:"max" default:"60s" range:"100ms..24h"`
}

// ReplayRate bounds how fast a backlog leaves after an outage. Fresh messages do not wait for it,
// unless the order of their topic wants it.
type ReplayRate struct {
	Messages int   `yaml:"messages" default:"0" range:"0..1000000"` // a second; 0 any
	Bytes    int64 `yaml:"bytes,size" default:"0" range:"0..1GiB"`  // of payload a second; 0 any
}

// A Rule says which messages cross a bridge. The topic T that Filter matches is
// LocalPrefix + T on this broker and RemotePrefix + T upstream. Of several rules of a bridge
// that match a topic, the first one counts.
type Rule struct {
	Direction    string `yaml:"direction,required" words:"out in both"` // out: to the cloud; in: from it; both: with announce only
	Filter       string `yaml:"filter,required"`
	QoS          int    `yaml:"qos" default:"1" range:"0..2"` // the highest; a message's own may be lower
	LocalPrefix  string `yaml:"local_prefix"`
	RemotePrefix string `yaml:"remote_prefix"`
	Replay       string `yaml:"replay" default:"strict" words:"strict live_first"` // after an outage: in order, or fresh messages first
	Queue        Queue  `yaml:"queue"`                                             // what of it waits for the cloud
}
