package bridge

import (
	"bytes"
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"gateway/broker/packet"
)

// play is a cloud that answers the first packets it gets with given bytes, one after the other,
// and then reads on.
func play(t *testing.T, answers ...string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			playTo(conn, answers)
			conn.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return "mqtt://" + ln.Addr().String()
}

func playTo(conn net.Conn, answers []string) {
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 4096)
	for _, a := range answers {
		if _, err := conn.Read(buf); err != nil {
			return
		}
		b, err := hex.DecodeString(strings.ReplaceAll(a, " ", ""))
		if err != nil {
			panic(err)
		}
		if _, err := conn.Write(b); err != nil {
			return
		}
	}
	io.Copy(io.Discard, conn)
}

// What a cloud may send at its worst ends the connection with one clear line, and nothing else.
func TestHostileCloud(t *testing.T) {
	const connack = "20020000"
	for _, tt := range []struct {
		name    string
		answers []string
		want    string
	}{
		{"not MQTT", []string{"48545450"}, "the cloud breaks the protocol"},
		{"MQTT-3.2.0-1 first packet", []string{"d000"}, "PINGRESP at the wrong time"},
		{"second CONNACK", []string{connack + connack}, "CONNACK at the wrong time"},
		{"long CONNACK", []string{"2003000000"}, "packet is longer than its content"},
		{"short CONNACK", []string{"200100"}, "packet ends within return code"},
		{"3.2.2.3 version", []string{"20020001"}, "does not speak this version"},
		{"3.2.2.3 identifier", []string{"20020002"}, "check client_id"},
		{"3.2.2.3 unavailable", []string{"20020003"}, "not available"},
		{"3.2.2.3 password", []string{"20020004"}, "user name or password"},
		{"3.2.2.3 authorisation", []string{"20020005"}, "does not authorise"},
		{"reserved return code", []string{"20020080"}, "return code 128"},
		{"SUBACK of nothing", []string{connack + "9003000101"}, "SUBACK without its request"},
		{"SUBACK with too many codes", []string{connack, "9004 ccce 0000"}, "SUBACK without its request"},
		{"SUBACK without a code", []string{connack, "9002 ccce"}, "SUBACK without a reason code"},
		{"from clients only", []string{connack + "c000"}, "PINGREQ comes from a client only"},
		{"MQTT-3.3.1-4 QoS 3", []string{connack + "3605000161 0001"}, "MQTT-3.3.1-4"},
		{"MQTT-3.3.2-2 wildcard", []string{connack + "3003000123"}, "MQTT-3.3.2-2"},
		{"identifier 0", []string{connack + "40020000"}, "the cloud breaks the protocol"},
		{"endless length", []string{connack + "30ffffffffff"}, "Remaining Length"},
		{"200 MB that are no message", []string{connack + "90ffffff60"}, "the limit of this bridge is 1048576"},
		{"a topic longer than its packet", []string{connack + "30ffff7fffff"}, "the cloud does not acknowledge"},
		{"truncated", []string{connack + "30050001"}, "the cloud does not acknowledge"}, // waits for the rest
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLedger(t, 0)
			config := testConfig(t, l, play(t, tt.answers...))
			config.AckTimeout = time.Second
			b, _ := start(t, config)
			eventually(t, tt.want, func() bool { return strings.Contains(b.State().LastError, tt.want) })
		})
	}
}

// A recorder is a link that keeps what it is to send.
type recorder struct {
	sent    []packet.Publish
	answers []packet.Ack
}

func (r *recorder) send(p packet.Publish) error { r.sent = append(r.sent, p); return nil }
func (r *recorder) answer(a packet.Ack)         { r.answers = append(r.answers, a) }
func (r *recorder) close()                      {}
func (r *recorder) subscribe(context.Context, packet.Subscribe) (packet.Suback, error) {
	return packet.Suback{}, nil
}
func (r *recorder) unsubscribe(context.Context, packet.Unsubscribe) error { return nil }

// Acknowledgements that fit no message break the protocol, mean nothing, or are answered once
// more; none reaches the local session.
func TestStrayAcknowledgements(t *testing.T) {
	for _, tt := range []struct {
		name   string
		in     packet.Ack
		ok     bool
		answer packet.Type // 0: none
	}{
		{"PUBACK for QoS 2", packet.Ack{Type: packet.PUBACK, ID: 2}, false, 0},
		{"PUBCOMP before PUBREC", packet.Ack{Type: packet.PUBCOMP, ID: 2}, false, 0},
		{"PUBREC for QoS 1", packet.Ack{Type: packet.PUBREC, ID: 1}, false, 0},
		{"PUBCOMP for QoS 1", packet.Ack{Type: packet.PUBCOMP, ID: 1}, false, 0},
		{"unknown PUBACK", packet.Ack{Type: packet.PUBACK, ID: 9}, true, 0},
		{"unknown PUBCOMP", packet.Ack{Type: packet.PUBCOMP, ID: 9}, true, 0},
		{"unknown PUBREC", packet.Ack{Type: packet.PUBREC, ID: 9}, true, packet.PUBREL},
		{"repeated PUBREC", packet.Ack{Type: packet.PUBREC, ID: 3}, true, packet.PUBREL},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLedger(t, 0)
			s, err := l.open(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			life := newLife()
			defer life.end(errClosed)
			h := newHandover(testConfig(t, l, ""), oneLane(s), life, &drops{log: slog.New(slog.DiscardHandler)})
			r := &recorder{}
			h.connected(r, welcome{sessionPresent: true, qos: 2})
			for id, m := range []packet.Publish{message("up/a", 1, 0), message("up/a", 2, 0)} {
				m.ID = uint16(id + 1)
				if err := h.forward(t.Context(), h.lanes[0].delivery(m), false); err != nil {
					t.Fatal(err)
				}
			}
			h.forward(t.Context(), h.lanes[0].delivery(packet.Publish{ID: 3, QoS: 2}), true)
			r.answers = nil
			// The ledger is empty: it would report Done or Accepted as an error.
			if err := h.acknowledged(tt.in); (err == nil) != tt.ok {
				t.Errorf("err = %v, want ok = %t", err, tt.ok)
			}
			if (len(r.answers) == 1) != (tt.answer != 0) || len(r.answers) == 1 && r.answers[0].Type != tt.answer {
				t.Errorf("answered %v, want type %d", r.answers, tt.answer)
			}
		})
	}
}

// A cloud that sends without reading costs bounded memory.
func TestDeafCloud(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	life := newLife()
	w := newSender(near, packet.V311, life, time.Minute)
	answers := 0
	for ; life.Err() == nil; answers++ {
		w.answer(packet.Ack{Type: packet.PUBACK, ID: 1})
	}
	<-w.flushed
	if most := 2 + 2*maxUnsentAnswers/4; answers > most || life.cause() != errDeaf {
		t.Errorf("ended after %d answers with %v; want at most %d and %v", answers, life.cause(), most, errDeaf)
	}
}

// Answers leave in the order of arrival, whatever order their commits end in.
func TestReceiptsKeepOrder(t *testing.T) {
	r := receipts{slots: make(chan struct{}, 3)}
	var line []*receipt
	for id := range uint16(3) {
		one, err := r.begin(t.Context(), packet.Ack{ID: id})
		if err != nil {
			t.Fatal(err)
		}
		line = append(line, one)
	}
	var left []byte
	for _, i := range []int{2, 0, 1} {
		r.finish(line[i], func(a packet.Ack) { left = append(left, byte(a.ID)) })
	}
	if !bytes.Equal(left, []byte{0, 1, 2}) || len(r.slots) != 0 {
		t.Errorf("answers left as %v, %d slots are still taken", left, len(r.slots))
	}
}
