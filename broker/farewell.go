package broker

import (
	"context"
	"errors"
	"net"
	"time"

	"gateway/broker/packet"
)

// A client for whose connection there is no place is told so if that costs next to nothing: it has to
// speak MQTT without TLS or WebSocket, and to begin with a small CONNECT soon. The others, and those
// beyond so many at a time, are just closed.
const (
	farewells     = 8
	farewellTime  = time.Second // from the connection to its end
	farewellBytes = 512         // of the CONNECT
)

// farewell tells a client why its connection has no place, and closes it. It reports false if it does
// neither.
func farewell(s *Server, nc net.Conn, why error) bool {
	e, ok := errors.AsType[*packet.Error](why)
	if _, secures := nc.(securer); !ok || secures {
		return false
	}
	select {
	case s.farewells <- struct{}{}:
	default:
		return false
	}
	started := s.start(func() {
		defer func() { <-s.farewells }()
		defer context.AfterFunc(s.ctx, func() { _ = nc.Close() })()
		_ = nc.SetDeadline(time.Now().Add(farewellTime))
		if last := answerTo(nc, e); last != nil {
			_, _ = nc.Write(last) // the client may be gone
		}
		_ = nc.Close()
	})
	if !started {
		<-s.farewells
	}
	return started
}

// answerTo reads a CONNECT, and returns the CONNACK that says e; nil: there is none.
func answerTo(nc net.Conn, e *packet.Error) []byte {
	b := make([]byte, 0, farewellBytes)
	for {
		h, n, err := packet.ParseHeader(b)
		if err != nil || n > 0 && (h.Type != packet.CONNECT || n+h.Length > farewellBytes) {
			return nil
		}
		if n > 0 && len(b) >= n+h.Length {
			var d packet.Decoder
			p, err := d.Connect(b[n : n+h.Length])
			if err != nil {
				return nil
			}
			last := packet.Connack{Reason: e.Reason, Properties: &packet.ConnackProperties{ReasonString: e.Error()}}
			if most := p.Properties.MaximumPacketSize; most > 0 && uint32(len(last.Append(nil, d.Version))) > most {
				last.Properties = nil // [MQTT-3.2.2-19]
			}
			return last.Append(nil, d.Version)
		}
		k, err := nc.Read(b[len(b):cap(b)])
		if b = b[:len(b)+k]; err != nil {
			return nil
		}
	}
}
