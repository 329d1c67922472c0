package bridge

import (
	"fmt"
	"io"

	packets5 "github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"gateway/broker/packet"
)

// A dialect lets the scripted cloud, which thinks in 3.1.1, speak either version. Neither codec is
// ours.
type dialect struct {
	version packet.Version
	// refuse tells the reason code of the PUBACK or PUBREC for a PUBLISH, 5.0 only.
	refuse func(p *packets.PublishPacket) byte
	// connack makes the properties of CONNACK, 5.0 only.
	connack func(*packets5.Properties)
	// seen is given each PUBLISH, 5.0 only.
	seen func(*packets5.Publish)
}

func (d *dialect) read(r io.Reader) (packets.ControlPacket, error) {
	if d.version < packet.V5 {
		return packets.ReadPacket(r)
	}
	p, err := packets5.ReadPacket(r)
	if err != nil {
		return nil, err
	}
	switch c := p.Content.(type) {
	case *packets5.Connect:
		out := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
		out.ClientIdentifier, out.CleanSession, out.ProtocolVersion = c.ClientID, c.CleanStart, 4
		if c.ProtocolVersion != 5 || c.Properties.SessionExpiryInterval == nil || *c.Properties.SessionExpiryInterval == 0 {
			return nil, fmt.Errorf("CONNECT of version %d, session expiry %v", c.ProtocolVersion, c.Properties.SessionExpiryInterval)
		}
		if out.WillFlag = c.WillFlag; c.WillFlag {
			out.WillTopic, out.WillMessage, out.WillRetain = c.WillTopic, c.WillMessage, c.WillRetain
		}
		return out, nil
	case *packets5.Publish:
		if d.seen != nil {
			d.seen(c)
		}
		out := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
		out.TopicName, out.Payload, out.Qos, out.MessageID, out.Dup, out.Retain = c.Topic, c.Payload, c.QoS, c.PacketID, c.Duplicate, c.Retain
		return out, nil
	case *packets5.Puback:
		return ack(packets.Puback, c.PacketID), nil
	case *packets5.Pubrec:
		return ack(packets.Pubrec, c.PacketID), nil
	case *packets5.Pubrel:
		return ack(packets.Pubrel, c.PacketID), nil
	case *packets5.Pubcomp:
		return ack(packets.Pubcomp, c.PacketID), nil
	case *packets5.Subscribe:
		out := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
		out.MessageID = c.PacketID
		for _, s := range c.Subscriptions {
			if !s.NoLocal {
				return nil, fmt.Errorf("SUBSCRIBE %q without No Local", s.Topic)
			}
			out.Topics, out.Qoss = append(out.Topics, s.Topic), append(out.Qoss, s.QoS)
		}
		return out, nil
	case *packets5.Unsubscribe:
		out := packets.NewControlPacket(packets.Unsubscribe).(*packets.UnsubscribePacket)
		out.MessageID, out.Topics = c.PacketID, c.Topics
		return out, nil
	case *packets5.Pingreq:
		return packets.NewControlPacket(packets.Pingreq), nil
	case *packets5.Disconnect:
		return packets.NewControlPacket(packets.Disconnect), nil
	}
	return nil, fmt.Errorf("unexpected packet %v", p)
}

func (d *dialect) write(w io.Writer, p packets.ControlPacket) error {
	if d.version < packet.V5 {
		return p.Write(w)
	}
	_, err := d.translate(p).WriteTo(w)
	return err
}

func (d *dialect) translate(p packets.ControlPacket) *packets5.ControlPacket {
	out := func(kind byte) *packets5.ControlPacket { return packets5.NewControlPacket(kind) }
	switch p := p.(type) {
	case *packets.ConnackPacket:
		o := out(packets5.CONNACK)
		c := o.Content.(*packets5.Connack)
		c.SessionPresent, c.ReasonCode = p.SessionPresent, p.ReturnCode
		if d.connack != nil {
			d.connack(c.Properties)
		}
		return o
	case *packets.PublishPacket:
		o := out(packets5.PUBLISH)
		c := o.Content.(*packets5.Publish)
		c.Topic, c.Payload, c.QoS, c.PacketID, c.Duplicate = p.TopicName, p.Payload, p.Qos, p.MessageID, p.Dup
		return o
	case *packets.PubackPacket:
		o := out(packets5.PUBACK)
		c := o.Content.(*packets5.Puback)
		c.PacketID, c.ReasonCode = p.MessageID, byte(p.Qos) // see refusal
		return o
	case *packets.PubrecPacket:
		o := out(packets5.PUBREC)
		c := o.Content.(*packets5.Pubrec)
		c.PacketID, c.ReasonCode = p.MessageID, byte(p.Qos)
		return o
	case *packets.PubrelPacket:
		o := out(packets5.PUBREL)
		o.Content.(*packets5.Pubrel).PacketID = p.MessageID
		return o
	case *packets.PubcompPacket:
		o := out(packets5.PUBCOMP)
		o.Content.(*packets5.Pubcomp).PacketID = p.MessageID
		return o
	case *packets.SubackPacket:
		o := out(packets5.SUBACK)
		c := o.Content.(*packets5.Suback)
		c.PacketID, c.Reasons = p.MessageID, p.ReturnCodes
		return o
	case *packets.UnsubackPacket:
		o := out(packets5.UNSUBACK)
		c := o.Content.(*packets5.Unsuback)
		c.PacketID, c.Reasons = p.MessageID, []byte{0}
		return o
	case *packets.PingrespPacket:
		return out(packets5.PINGRESP)
	}
	panic(fmt.Sprintf("the scripted cloud sends %T", p))
}

// refusal returns a PUBACK or PUBREC that says no.
func refusal5(p *packets.PublishPacket, code byte) packets.ControlPacket {
	if p.Qos == 1 {
		a := ack(packets.Puback, p.MessageID).(*packets.PubackPacket)
		a.Qos = code
		return a
	}
	a := ack(packets.Pubrec, p.MessageID).(*packets.PubrecPacket)
	a.Qos = code
	return a
}
