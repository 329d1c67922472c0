package conformance

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/broker/auth"
	"gateway/broker/auth/scram"
	"gateway/broker/packet"
)

// method is the authentication method of these tests, which the gateway under test has with one
// user. Other brokers would have to be told of that user.
const method, user, password = "SCRAM-SHA-256", "user", "pencil"

// mechanisms makes what the gateway under test authenticates with, with its files in a folder.
func mechanisms(dir string) ([]auth.Mechanism, error) {
	path := filepath.Join(dir, "users")
	keys, err := scram.NewKeys(scram.SHA256, password, scram.MinIterations)
	if err != nil {
		return nil, err
	}
	if err := scram.Set(path, user, time.Time{}, keys); err != nil {
		return nil, err
	}
	users, err := scram.Open(path, make([]byte, 32))
	if err != nil {
		return nil, err
	}
	return []auth.Mechanism{&scram.Mechanism{Hash: scram.SHA256, Users: users}}, nil
}

// An exchange is the client's side of an authentication that a test goes through step by step.
type exchange struct {
	*wire
	prover *scram.Client
}

// prove begins an exchange. The client is user, and knows its password or does not.
func (w *wire) prove(password string) *exchange {
	w.t.Helper()
	c, err := scram.NewClient(scram.SHA256, user, password)
	if err != nil {
		w.t.Fatal(err)
	}
	return &exchange{w, c}
}

// next returns what the client says to the data that it has got last.
func (x *exchange) next(data []byte) []byte {
	x.t.Helper()
	answer, err := x.prover.Next(data)
	if err != nil {
		x.t.Fatal(err)
	}
	return answer
}

// authenticating sends a CONNECT with an authentication method, and returns the exchange at the
// point where the server has asked.
func (s *site) authenticating(c packet.Connect, password string) *exchange {
	s.t.Helper()
	if under.name != "gateway" {
		s.lacks("the broker under test does not know the user of this test")
	}
	w := s.dial()
	x := w.prove(password)
	c.Properties.HasAuthMethod, c.Properties.AuthMethod, c.Properties.AuthData = true, method, x.next(nil)
	w.send(&c)
	w.expect("AUTH Continue authentication " + method)
	return x
}

func (x *exchange) answer(reason packet.ReasonCode, data []byte) *packet.Auth {
	return &packet.Auth{Reason: reason, Method: method, Data: data}
}

// authenticated goes through a whole authentication.
func (s *site) authenticated(c packet.Connect) *wire {
	s.t.Helper()
	x := s.authenticating(c, password)
	x.send(x.answer(packet.ContinueAuthentication, x.next(x.auth.Data)))
	x.expect("CONNACK Success")
	p := x.connack.Properties
	if p == nil || !p.HasAuthMethod || p.AuthMethod != method {
		s.t.Fatalf("the CONNACK has not the authentication method of the CONNECT: %+v", p)
	}
	if x.next(p.AuthData); !x.prover.Verified() {
		s.t.Error("the server has not shown that it knows the user")
	}
	return x.wire
}

func TestEnhancedAuthentication(t *testing.T) {
	v5(t, func(s *site) {
		w := s.authenticated(clean("a"))
		w.subscribe(filter("a", 0))
		w.publish(publish("b", "x", 1, 1))
	})
}

// Before CONNACK a client sends AUTH with 0x18 and the same method, or DISCONNECT.
func TestBeforeConnack(t *testing.T) {
	v5(t, func(s *site) {
		for name, p := range map[string]encoder{
			"PUBLISH":           publish("a", "x", 0, 0),
			"SUBSCRIBE":         subscribe(1, filter("a", 0)),
			"PINGREQ":           &packet.Ping{Type: packet.PINGREQ},
			"a second CONNECT":  &packet.Connect{ClientID: "a"},
			"AUTH with 0x00":    &packet.Auth{Method: method},
			"AUTH with 0x19":    &packet.Auth{Reason: packet.Reauthenticate, Method: method},
			"AUTH with nothing": &packet.Auth{},
			"another method":    &packet.Auth{Reason: packet.ContinueAuthentication, Method: "SCRAM-SHA-1"},
		} {
			s.t.Run(name, func(t *testing.T) {
				here := *s
				here.t = t
				x := here.authenticating(clean("a"), password)
				x.send(p)
				x.turnedAway(packet.ProtocolError)
			})
		}
		x := s.authenticating(clean("a"), password)
		x.leave()
	})
}

func TestFailedAuthentication(t *testing.T) {
	v5(t, func(s *site) {
		x := s.authenticating(clean("a"), "not the password")
		x.send(x.answer(packet.ContinueAuthentication, x.next(x.auth.Data)))
		x.turnedAway(packet.NotAuthorized)
	})
}

// In a session a client can authenticate again, with the method that it began with, while messages
// go on.
func TestReauthentication(t *testing.T) {
	v5(t, func(s *site) {
		w := s.authenticated(clean("a"))
		w.subscribe(filter("a", 1))
		x := w.prove(password)
		x.send(x.answer(packet.Reauthenticate, x.next(nil)))
		x.expect("AUTH Continue authentication " + method)
		asked := x.auth.Data
		s.connect(clean("b")).publish(publish("a", "meanwhile", 1, 1))
		w.take("PUBLISH a=meanwhile q1")
		x.send(x.answer(packet.ContinueAuthentication, x.next(asked)))
		x.expect("AUTH Success " + method)
		if x.next(x.auth.Data); !x.prover.Verified() {
			s.t.Error("the server has not shown that it knows the user")
		}
		w.silent()
	})
}

func TestReauthenticationMethod(t *testing.T) {
	v5(t, func(s *site) {
		w := s.authenticated(clean("a"))
		w.send(&packet.Auth{Reason: packet.Reauthenticate, Method: "SCRAM-SHA-1", Data: []byte("n,,n=user,r=abc")})
		w.refused(packet.ProtocolError)
	})
}

func TestFailedReauthentication(t *testing.T) {
	v5(t, func(s *site) {
		w := s.authenticated(clean("a"))
		x := w.prove("not the password")
		x.send(x.answer(packet.Reauthenticate, x.next(nil)))
		x.expect("AUTH Continue authentication " + method)
		x.send(x.answer(packet.ContinueAuthentication, x.next(x.auth.Data)))
		x.refused(packet.NotAuthorized)
	})
}

// A client is not told whether a user exists.
func TestUnknownUser(t *testing.T) {
	v5(t, func(s *site) {
		known := s.authenticating(clean("a"), "not the password")
		c := clean("b")
		c.Properties.HasAuthMethod, c.Properties.AuthMethod = true, method
		c.Properties.AuthData = []byte("n,,n=nobody,r=abc")
		unknown := s.open(c)
		unknown.expect("AUTH Continue authentication " + method)
		shape := func(x *wire) (s string) {
			for field := range strings.SplitSeq(string(x.auth.Data), ",") {
				if field[0] != 'i' {
					field = field[:2]
				}
				s += field
			}
			return s
		}
		if a, b := shape(known.wire), shape(unknown); a != b {
			s.t.Errorf("a user that exists is asked %q, another one %q", known.auth.Data, unknown.auth.Data)
		}
		_, nonce, _ := strings.Cut(string(unknown.auth.Data), "r=")
		nonce, _, _ = strings.Cut(nonce, ",")
		proof := "c=biws,r=" + nonce + ",p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
		unknown.send(&packet.Auth{Reason: packet.ContinueAuthentication, Method: method, Data: []byte(proof)})
		unknown.turnedAway(packet.NotAuthorized)
	})
}
