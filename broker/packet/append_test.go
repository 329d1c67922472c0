package packet

import (
	"bytes"
	"strings"
	"testing"
)

func TestShortForms(t *testing.T) {
	for _, tt := range []struct {
		clause string
		p      appender
		v      Version
		want   string
	}{
		{"3.4.2.1", &Ack{Type: PUBACK, ID: 7}, V5, "\x40\x02\x00\x07"},
		{"3.4.2.1", &Ack{Type: PUBACK, ID: 7, Reason: NoMatchingSubscribers}, V5, "\x40\x03\x00\x07\x10"},
		{"3.6.1", &Ack{Type: PUBREL, ID: 7, Reason: PacketIDNotFound}, V311, "\x62\x02\x00\x07"},
		{"3.4.2.1", &Ack{Type: PUBACK, ID: 7, ReasonString: "x"}, V5, "\x40\x08\x00\x07\x00\x04\x1f\x00\x01x"},
		{"3.14.2.1", &Disconnect{}, V5, "\xe0\x00"},
		{"3.14.2.1", &Disconnect{Reason: ServerShuttingDown}, V5, "\xe0\x01\x8b"},
		{"3.14", &Disconnect{Reason: ServerShuttingDown, ReasonString: "x"}, V311, "\xe0\x00"},
		{"3.15.2.1", &Auth{}, V5, "\xf0\x00"},
		{"3.12", &Ping{PINGREQ}, V311, "\xc0\x00"},
		{"3.13", &Ping{PINGRESP}, V5, "\xd0\x00"},
		{"3.11.2", &Suback{Type: UNSUBACK, ID: 7, Reasons: []ReasonCode{NotAuthorized}}, V311, "\xb0\x02\x00\x07"},
		{"3.1.1 3.9.3", &Suback{Type: SUBACK, ID: 7, Reasons: []ReasonCode{NotAuthorized, GrantedQoS2}}, V311, "\x90\x04\x00\x07\x80\x02"},
		{"3.2.2.2", &Connack{Properties: &ConnackProperties{ReceiveMaximum: 9}}, V311, "\x20\x02\x00\x00"},
		{"3.1.1 3.2.2.2", &Connack{SessionPresent: true}, V31, "\x20\x02\x00\x00"},
		{"MQTT-3.2.2-6", &Connack{SessionPresent: true, Reason: ServerBusy}, V5, "\x20\x03\x00\x89\x00"},
	} {
		if got := tt.p.Append([]byte("before"), tt.v); string(got) != "before"+tt.want {
			t.Errorf("[%s] %+v in %d: %q, want %q", tt.clause, tt.p, tt.v, got, tt.want)
		}
	}
}

func TestReturnCode(t *testing.T) {
	for r, want := range map[ReasonCode]byte{
		Success: 0, UnsupportedProtocolVersion: 1, ClientIDNotValid: 2, ServerUnavailable: 3,
		ServerBusy: 3, QuotaExceeded: 3, BadUserNameOrPassword: 4, BadAuthenticationMethod: 4,
		NotAuthorized: 5, Banned: 5,
	} {
		p := Connack{Reason: r}
		if got := p.Append(nil, V311); r.ReturnCode() != want || got[3] != want {
			t.Errorf("[3.1.1 3.2.2.3] %v is return code %d, written %q, want %d", r, r.ReturnCode(), got, want)
		}
	}
}

// The length of every field that has one is found to the byte where it grows (clause 1.5.5).
func TestLengths(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152} {
		content := bytes.Repeat([]byte{'x'}, n)
		got := closeLength(append([]byte{0xAA, 0}, content...), 1)
		want := append(appendVarint([]byte{0xAA}, uint32(n)), content...)
		if !bytes.Equal(got, want) {
			t.Errorf("[1.5.5] length %d: %d bytes that begin %x, want %d that begin %x", n, len(got), got[:6], len(want), want[:6])
		}
		if varintSize(n) != len(want)-n-1 {
			t.Errorf("[1.5.5] length %d takes %d bytes, want %d", n, varintSize(n), len(want)-n-1)
		}
	}
}

// What no string can hold is cut, and Size knows it.
func TestTooLong(t *testing.T) {
	long := strings.Repeat("x", maxString-1) + "é"
	p := Publish{Topic: "t", Properties: &PublishProperties{
		ContentType: long, ResponseTopic: long, CorrelationData: []byte(long), User: []UserProperty{{long, long}},
	}}
	b := p.Append(nil, V5)
	if p.Size(V5) != len(b) {
		t.Fatalf("[1.5.4] size = %d, want %d", p.Size(V5), len(b))
	}
	h, n, err := ParseHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	d := Decoder{Version: V5}
	got, err := d.Publish(h.Flags, b[n:])
	if err != nil {
		t.Fatalf("[1.5.4] what was cut is not read back: %v", err)
	}
	if want := long[:maxString-1]; got.Properties.ContentType != want {
		t.Errorf("[1.5.4] content type has %d bytes, want %d", len(got.Properties.ContentType), len(want))
	}
}

func TestPublishAllocates(t *testing.T) {
	for _, v := range []Version{V31, V311, V5} {
		d := Decoder{Version: v}
		var bodies [][]byte
		for _, topic := range []string{"greenhouse/air/temperature", "greenhouse/vent/state"} {
			p := Publish{Topic: topic, Payload: []byte("21.5"), QoS: 1, ID: 1}
			b := p.Append(nil, v)
			bodies = append(bodies, b[2:])
		}
		dst := make([]byte, 0, 128)
		allocs := testing.AllocsPerRun(100, func() {
			for _, body := range bodies {
				p, err := d.Publish(0b0010, body)
				if err != nil {
					t.Fatal(err)
				}
				dst = p.Append(dst[:0], v)
			}
		})
		if allocs != 0 {
			t.Errorf("version %d: %v allocations for topics that repeat, want 0", v, allocs)
		}
	}
}

func TestTopicCacheBound(t *testing.T) {
	d := Decoder{Version: V311}
	for i := range 1000 {
		if _, err := d.Publish(0, []byte(str(strings.Repeat("x", i+1)))); err != nil {
			t.Fatal(err)
		}
	}
	kept := 0
	for _, s := range d.topics {
		kept += len(s)
	}
	if limit := len(d.topics) * maxCached; kept == 0 || kept > limit {
		t.Errorf("the cache keeps %d bytes, want 1 to %d", kept, limit)
	}
}

func BenchmarkPublishDecode(b *testing.B) {
	for _, v := range []Version{V311, V5} {
		b.Run(versionName(v), func(b *testing.B) {
			p := Publish{Topic: "greenhouse/air/temperature", Payload: make([]byte, 100), QoS: 1, ID: 1}
			packet := p.Append(nil, v)
			d := Decoder{Version: v}
			b.SetBytes(int64(len(packet)))
			b.ReportAllocs()
			for b.Loop() {
				h, n, err := ParseHeader(packet)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := d.Publish(h.Flags, packet[n:]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkPublishAppend(b *testing.B) {
	for _, v := range []Version{V311, V5} {
		b.Run(versionName(v), func(b *testing.B) {
			p := Publish{Topic: "greenhouse/air/temperature", Payload: make([]byte, 100), QoS: 1, ID: 1,
				Properties: &PublishProperties{MessageExpiry: 60, HasMessageExpiry: true, ContentType: "text/plain"}}
			dst := p.Append(nil, v)
			b.SetBytes(int64(len(dst)))
			b.ReportAllocs()
			for b.Loop() {
				dst = p.Append(dst[:0], v)
			}
		})
	}
}

func versionName(v Version) string {
	return map[Version]string{V31: "3.1", V311: "3.1.1", V5: "5.0"}[v]
}
