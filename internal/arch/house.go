package arch

// House is the plan of the gateway. Arrows point down only: a room sees rooms on its own floor
// or below, and of those only the ones it names. A room that is not here does not exist: whoever
// builds one enters it first.
var House = Plan{
	Module: "gateway",

	Rooms: []Room{
		// floor, path, sees, pure
		{5, "cmd/gateway", "*", false},                            // the only place where parts meet
		{4, "config", "broker/topic broker/auth/template", false}, // no engine: it says what is wanted
		{3, "broker", "broker/session broker/auth broker/topic broker/packet", false},
		{3, "offline", "broker/session broker/packet", false}, // fulfils broker's Store without knowing it
		{2, "broker/session", "broker/packet", true},          // a protocol as functions: no sockets, no files
		{2, "bridge", "broker/packet broker/topic", false},    // its queue is a session of the broker
		{2, "sensors/*", "sensors board", false},              // drivers know neither MQTT nor YAML
		{2, "board/*", "board sensors", false},
		{1, "broker/packet", "", true},
		{1, "broker/topic", "", true},
		{1, "broker/auth", "", false},
		{1, "broker/auth/recent", "", true},
		{1, "broker/auth/template", "", true},
		{1, "broker/auth/ledger", "broker/watch", false},
		{1, "broker/auth/ban", "broker/auth broker/auth/ledger", false},
		{1, "broker/auth/device", "broker/auth broker/auth/ledger", false},
		{1, "broker/auth/throttle", "broker/auth broker/auth/recent", false},
		{1, "broker/auth/service", "broker/auth broker/auth/recent broker/auth/ledger broker/auth/template broker/topic", false},
		{1, "broker/auth/roster", "broker/watch", false},
		{1, "broker/auth/acl", "broker/auth broker/topic broker/watch", false},
		{1, "broker/auth/passwd", "broker/auth broker/auth/roster", false},
		{1, "broker/auth/scram", "broker/auth broker/auth/roster", false},
		{1, "broker/auth/totp", "broker/auth broker/auth/roster", false},
		{1, "broker/listen", "broker/watch", false},
		{1, "broker/watch", "", false},
		{1, "sensors", "", false},
		{1, "board", "", false},
		{2, "internal/client", "broker/packet broker/topic broker/listen", false}, // for the command line and the tests
		{1, "internal/ca", "", false},                                             // for the command line
		// The ground floor is what the tests stand on. Nothing that is shipped sees it.
		{0, "internal/*", "*", false},
	},

	// Each module from elsewhere is known to one room, which can replace it alone. A row counts
	// for the packages below its path too. What only tests import needs no row.
	Owners: []Owner{
		{"go.etcd.io/bbolt", "offline"},
		{"github.com/eclipse/paho.mqtt.golang", "bridge"},
		{"github.com/eclipse/paho.golang", "bridge"},
		{"github.com/gorilla/websocket", "broker/listen"},
		{"golang.org/x/crypto", "broker/auth/passwd"},
		{"periph.io/x/host", "board/linux"},
		{"periph.io/x/conn", "board/linux"},
		{"github.com/tarm/serial", "board/linux"},
		{"github.com/warthog618/go-gpiocdev", "board/linux"},
		{"github.com/goccy/go-yaml", "config"},
		{"github.com/spf13/cobra", "cmd/gateway"},
		{"rsc.io/qr", "cmd/gateway"},
		{"github.com/spf13/pflag", "cmd/gateway"},
		{"github.com/coreos/go-systemd", "cmd/gateway"},
		// The Go project's own additions to the standard library may be used like it.
		{"golang.org/x/sync", "*"},
		{"golang.org/x/sys", "*"},
		{"golang.org/x/time", "*"},
	},

	// Names that say where code was put and not what it is.
	NoNouns: "base common helper helpers lib manager managers misc models pkg shared util utils",

	FileLines:     500,
	TypeMethods:   15,
	FuncLines:     70,
	LongFuncsPerc: 5,
}
