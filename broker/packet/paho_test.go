package packet

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"pgregory.net/rapid"
)

// fromPaho makes our packet of one that paho has read, field by field.
func fromPaho(p packets.ControlPacket) appender {
	switch p := p.(type) {
	case *packets.ConnectPacket:
		return connectFromPaho(p)
	case *packets.ConnackPacket:
		return &Connack{SessionPresent: p.SessionPresent, Reason: returnCodes[p.ReturnCode]}
	case *packets.PublishPacket:
		return &Publish{Dup: p.Dup, QoS: QoS(p.Qos), Retain: p.Retain, Topic: p.TopicName, ID: p.MessageID, Payload: p.Payload}
	case *packets.PubackPacket:
		return &Ack{Type: PUBACK, ID: p.MessageID}
	case *packets.PubrecPacket:
		return &Ack{Type: PUBREC, ID: p.MessageID}
	case *packets.PubrelPacket:
		return &Ack{Type: PUBREL, ID: p.MessageID}
	case *packets.PubcompPacket:
		return &Ack{Type: PUBCOMP, ID: p.MessageID}
	case *packets.SubscribePacket:
		s := &Subscribe{ID: p.MessageID}
		for i := range p.Topics {
			s.Filters = append(s.Filters, Subscription{Filter: p.Topics[i], QoS: QoS(p.Qoss[i])})
		}
		return s
	case *packets.SubackPacket:
		s := &Suback{Type: SUBACK, ID: p.MessageID}
		for _, code := range p.ReturnCodes {
			s.Reasons = append(s.Reasons, ReasonCode(code))
		}
		return s
	case *packets.UnsubscribePacket:
		return &Unsubscribe{ID: p.MessageID, Filters: p.Topics}
	case *packets.UnsubackPacket:
		return &Suback{Type: UNSUBACK, ID: p.MessageID}
	case *packets.DisconnectPacket:
		return &Disconnect{}
	case *packets.PingreqPacket:
		return &Ping{PINGREQ}
	case *packets.PingrespPacket:
		return &Ping{PINGRESP}
	}
	return nil
}

func connectFromPaho(p *packets.ConnectPacket) *Connect {
	c := &Connect{
		Version: Version(p.ProtocolVersion &^ bridgeBit), Bridge: p.ProtocolVersion&bridgeBit != 0,
		CleanStart: p.CleanSession, KeepAlive: p.Keepalive, ClientID: p.ClientIdentifier,
		HasUsername: p.UsernameFlag, Username: p.Username,
		HasPassword: p.PasswordFlag, Password: p.Password,
	}
	if p.WillFlag {
		c.Will = &Will{Topic: p.WillTopic, Payload: p.WillMessage, QoS: QoS(p.WillQos), Retain: p.WillRetain}
	}
	return c
}

// An independent codec reads the same values from our bytes, and writes the same bytes.
func TestPahoAgrees(t *testing.T) {
	for name, gen := range generators {
		if name == "AUTH" {
			continue // 5.0 only
		}
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				want := gen(t, V311)
				b := want.Append(nil, V311)
				theirs, err := packets.ReadPacket(bytes.NewReader(b))
				if err != nil {
					t.Fatalf("paho refuses %x: %v", b, err)
				}
				if got := fromPaho(theirs); !reflect.DeepEqual(got, want) {
					t.Fatalf("paho reads %#v\nwant       %#v", got, want)
				}
				var out bytes.Buffer
				if err := theirs.Write(&out); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(out.Bytes(), b) {
					t.Fatalf("paho writes %x\nwant        %x", out.Bytes(), b)
				}
			})
		})
	}
}

// FuzzPaho: what we accept as 3.1.1, paho reads as the same packet. Paho accepts more.
func FuzzPaho(f *testing.F) {
	for _, p := range samples() {
		f.Add(p.Append(nil, V311))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := ParseHeader(b)
		if err != nil || n == 0 || len(b)-n < h.Length {
			t.Skip("not a packet")
		}
		b = b[:n+h.Length]
		ours, err := decode(&Decoder{Version: V311}, h, b[n:])
		if err != nil || h.Type == AUTH {
			return // refused, or not a packet of 3.1.1: there is nothing to compare
		}
		switch p := ours.(type) {
		case *Connect:
			if p.Version == V5 {
				t.Skip("not a packet of 3.1.1")
			}
		case *Unsubscribe:
			if slices.Contains(p.Filters, "") {
				t.Skip("paho takes an empty filter for the end; we leave it to package topic")
			}
		}
		theirs, err := packets.ReadPacket(bytes.NewReader(b))
		if err != nil {
			t.Fatalf("paho refuses %x: %v", b, err)
		}
		if got, want := fromPaho(theirs).Append(nil, V311), ours.Append(nil, V311); !bytes.Equal(got, want) {
			t.Errorf("of %x\npaho reads %x\nwe read    %x", b, got, want)
		}
	})
}
