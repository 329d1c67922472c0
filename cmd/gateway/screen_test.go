package main

import "testing"

func TestPointText(t *testing.T) {
	for _, tt := range []struct{ payload, want string }{
		{`{"value":21.5,"unit":"°C","quality":"good","at":"2026-01-01T00:00:00Z"}`, "21.5 °C"},
		{`{"value":"open","quality":"good"}`, "open"},
		{`{"value":null,"unit":"%","quality":"bad","error":"unplugged"}`, "bad: unplugged"},
		{"plain", "plain"},
		{"\x1b[2J\xff", `"\x1b[2J\xff"`}, // a terminal must not obey it
		{"0123456789012345678901234567890123456789012345678901234567890123456789", "01234567890123456789012345678901234567890123456789012345678…"},
	} {
		if got := pointText([]byte(tt.payload)); got != tt.want {
			t.Errorf("pointText(%q) = %q, want %q", tt.payload, got, tt.want)
		}
	}
}
