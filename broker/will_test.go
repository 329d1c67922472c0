package broker_test

import (
	"testing"

	"gateway/broker"
	"gateway/broker/packet"
)

// A DISCONNECT discards the will with code 0x00 only, of all that a client may send (5.0, 3.14.2.1)
// [MQTT-3.1.2-8], [MQTT-3.14.4-3].
func TestWillOfDisconnect(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	watch := s.connect(packet.V5, clean("watch"))
	watch.send(subscribe(1, filter("will", 0)))
	watch.expect("SUBACK 1…")
	for _, reason := range []packet.ReasonCode{0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99} {
		c := clean("c")
		c.Will = &packet.Will{Topic: "will", Payload: []byte(reason.String())}
		w := s.connect(packet.V5, c)
		w.send(&packet.Disconnect{Reason: reason})
		w.expect("closed")
		if reason == packet.Success {
			watch.silent()
		} else {
			watch.expect("PUBLISH will=" + reason.String() + " q0")
		}
	}
}

// A session that was resumed without an expiry interval ends when it is taken over, and its will is due
// then, whatever its delay (5.0, 3.1.2.11.2, 3.1.4) [MQTT-3.1.2-8].
func TestTakeoverEndsSession(t *testing.T) {
	s := start(t, nil, broker.Limits{})
	watch := s.connect(packet.V5, clean("watch"))
	watch.send(subscribe(1, filter("will", 0)))
	watch.expect("SUBACK 1…")
	first := s.connect(packet.V5, kept("c"))
	first.send(subscribe(1, filter("d", 1)), &packet.Disconnect{})
	first.expect("SUBACK 1…", "closed")
	second := s.again(packet.V5, packet.Connect{ClientID: "c", Will: &packet.Will{Topic: "will", Payload: []byte("ended"), Delay: 50}})
	third := s.connect(packet.V5, kept("c"))
	if third.connack.SessionPresent {
		t.Error("Session Present for a session that has ended")
	}
	second.expect("DISCONNECT "+packet.SessionTakenOver.String(), "closed")
	watch.expect("PUBLISH will=ended q0")
	third.send(publish("d", "x", 0, 0))
	third.silent()
}
