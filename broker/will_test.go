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
