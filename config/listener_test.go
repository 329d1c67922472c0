package config

import "testing"

// A listener without a port has the customary one of what is spoken there.
func TestCustomaryPorts(t *testing.T) {
	const tls = ", tls: {cert: c, key: k}"
	for _, tt := range []struct{ listener, want string }{
		{"address: 127.0.0.1", "127.0.0.1:1883"},
		{"address: localhost" + tls, "localhost:8883"},
		{"address: '::1'", "[::1]:1883"},
		{"address: '[::1]', protocols: websocket", "[::1]:8083"},
		{"address: 'gateway.example:', protocols: websocket" + tls, "gateway.example:8084"},
		{"address: ':', protocols: [mqtt, websocket, http]" + tls, ":8883"},
		{"protocols: mqtt", ":1883"},
		{"protocols: websocket", ":8083"},
		{"address: ':1', protocols: websocket", ":1"},
		{"address: '127.0.0.1:0'", "127.0.0.1:0"},
	} {
		c, err := Parse("gateway.yaml", []byte("listeners: [{name: a, anonymous: true, "+tt.listener+"}]\n"), nil)
		if err != nil {
			t.Errorf("%s: %v", tt.listener, err)
			continue
		}
		if got := c.Listeners[0].Address; got != tt.want {
			t.Errorf("%s: listens on %q, want %q", tt.listener, got, tt.want)
		}
	}
	for _, bad := range []string{"versions: 5.0", "address: '1883'", "protocols: http", "address: gateway, protocols: http"} {
		if c, err := Parse("gateway.yaml", []byte("listeners: [{name: a, anonymous: true, "+bad+"}]\n"), nil); err == nil {
			t.Errorf("%s: listens on %q", bad, c.Listeners[0].Address)
		}
	}
}
