package client

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/auth/scram"
	"gateway/broker/packet"
	"gateway/offline"
)

// A parrot is a Prover that says what it has heard; it is content with a server that says "bye".
type parrot struct{ heard string }

func (*parrot) Method() string { return "PARROT" }

func (p *parrot) Next(data []byte) ([]byte, error) {
	if data == nil {
		return []byte("hello"), nil
	}
	if p.heard = string(data); p.heard == "squawk" {
		return nil, errors.New("too loud")
	}
	return data, nil
}

func (p *parrot) Verified() bool { return p.heard == "bye" }

func letIn(method, data string) *packet.Connack {
	return &packet.Connack{Properties: &packet.ConnackProperties{HasAuthMethod: method != "", AuthMethod: method, AuthData: []byte(data)}}
}

func goOn(reason packet.ReasonCode, method, data string) *packet.Auth {
	return &packet.Auth{Reason: reason, Method: method, Data: []byte(data)}
}

// A server that does not keep to the method is not gone on with.
func TestProver(t *testing.T) {
	const more = packet.ContinueAuthentication
	for _, tt := range []struct {
		name    string
		answers []encoder
		want    string // part of the error; empty: connected
	}{
		{"at once", []encoder{letIn("PARROT", "bye")}, ""},
		{"two rounds", []encoder{goOn(more, "PARROT", "a"), goOn(more, "PARROT", ""), letIn("PARROT", "bye")}, ""},
		{"nothing shown", []encoder{letIn("PARROT", "")}, "has not shown"},
		{"no method in CONNACK", []encoder{letIn("", "")}, "MQTT-4.12.0-5"},
		{"no properties in CONNACK", []encoder{&packet.Connack{}}, "MQTT-4.12.0-5"},
		{"another method in CONNACK", []encoder{letIn("PLAIN", "bye")}, "MQTT-4.12.0-5"},
		{"another method in AUTH", []encoder{goOn(more, "PLAIN", "a")}, "MQTT-4.12.0-5"},
		{"another reason in AUTH", []encoder{goOn(packet.Reauthenticate, "PARROT", "a")}, "MQTT-4.12.0-2"},
		{"an empty AUTH", []encoder{&packet.Auth{}}, "MQTT-4.12.0-5"},
		{"refused", []encoder{goOn(more, "PARROT", "a"), &packet.Connack{Reason: packet.NotAuthorized}}, "Not authorized"},
		{"the prover fails", []encoder{goOn(more, "PARROT", "squawk")}, "too loud"},
		{"the prover fails at the end", []encoder{letIn("PARROT", "squawk")}, "too loud"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _, err := tryConnect(t, Options{Version: packet.V5, Prover: new(parrot)}, func(p *peer) {
				for _, a := range tt.answers {
					p.send(a)
					if _, ok := a.(*packet.Auth); ok && tt.want == "" {
						p.expect("AUTH")
					}
					if tt.name == "refused" && a == tt.answers[0] {
						p.expect("AUTH")
					}
				}
			})
			if c != nil {
				c.Close()
			}
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("err = %v, want %q in it", err, tt.want)
			}
		})
	}
	mine, theirs := net.Pipe()
	defer theirs.Close()
	if _, err := New(t.Context(), mine, Options{Version: packet.V311, Prover: new(parrot)}); err == nil || !strings.Contains(err.Error(), "5.0") {
		t.Errorf("in 3.1.1: %v", err)
	}
}

// A server that does not keep to the method when the client authenticates again, or that was not asked.
func TestReauthenticateBadServer(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer *packet.Auth
		want   string
	}{
		{"another method", goOn(packet.ContinueAuthentication, "PLAIN", "a"), "MQTT-4.12.0-5"},
		{"another reason", goOn(packet.Reauthenticate, "PARROT", "a"), "MQTT-4.12.0-2"},
		{"nothing shown", goOn(packet.Success, "PARROT", "a"), "has not shown"},
		{"the prover fails", goOn(packet.ContinueAuthentication, "PARROT", "squawk"), "too loud"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, p := connect(t, Options{Version: packet.V5}, packet.Connack{})
			ended := make(chan error, 1)
			go func() { ended <- c.Reauthenticate(t.Context(), new(parrot)) }()
			p.expect("AUTH")
			p.send(tt.answer)
			if err := <-ended; err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %v, want %q in it", err, tt.want)
			}
			<-c.Done()
		})
	}
	c, p := connect(t, Options{Version: packet.V5}, packet.Connack{})
	p.send(goOn(packet.ContinueAuthentication, "PARROT", "a"))
	<-c.Done()
	if err := c.Err(); !strings.Contains(err.Error(), "not asked") {
		t.Errorf("AUTH without a question: %v", err)
	}
}

// doorkeeper runs the gateway's broker with SCRAM in front of it.
func doorkeeper(t *testing.T) (address string) {
	t.Helper()
	dir := t.TempDir()
	var keys []scram.Keys
	var methods []auth.Mechanism
	for _, h := range scram.Hashes {
		k, err := scram.NewKeys(h, "pencil", scram.MinIterations)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k)
	}
	path := filepath.Join(dir, "users")
	if err := scram.Set(path, "user", time.Time{}, keys...); err != nil {
		t.Fatal(err)
	}
	users, err := scram.Open(path, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range scram.Hashes {
		methods = append(methods, &scram.Mechanism{Hash: h, Users: users})
	}
	log := slog.New(slog.DiscardHandler)
	store, err := offline.Open(filepath.Join(dir, "store"), offline.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	server, err := broker.New(broker.Options{Store: store, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- server.Serve(ln, broker.Listener{Name: "door", Auth: auth.Chain{}, Mechanisms: methods})
	}()
	t.Cleanup(func() {
		for _, err := range []error{server.Close(), <-served, store.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	return "mqtt://" + ln.Addr().String()
}

// The client and the broker agree on SCRAM, at the beginning and again while messages flow.
func TestScram(t *testing.T) {
	address := doorkeeper(t)
	prover := func(h scram.Hash, password string) Prover {
		t.Helper()
		p, err := scram.NewClient(h, "user", password)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, h := range scram.Hashes {
		t.Run(h.String(), func(t *testing.T) {
			got := make(chan string, 200) // as many as are published: Receive never waits
			o := Options{Version: packet.V5, Prover: prover(h, "pencil"), Receive: func(p packet.Publish) { got <- string(p.Payload) }}
			c, err := Dial(t.Context(), address, o)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Subscribe(t.Context(), packet.Subscription{Filter: "t/" + h.String(), QoS: 1}); err != nil {
				t.Fatal(err)
			}
			sent := make(chan error, 1)
			go func() {
				for n := range cap(got) {
					m := packet.Publish{Topic: "t/" + h.String(), Payload: fmt.Append(nil, n), QoS: 1}
					if err := c.Send(t.Context(), m, nil); err != nil {
						sent <- err
						return
					}
				}
				sent <- c.Wait(t.Context())
			}()
			for range 3 {
				if err := c.Reauthenticate(t.Context(), prover(h, "pencil")); err != nil {
					t.Fatal(err)
				}
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
			for n := range cap(got) {
				if m := <-got; m != fmt.Sprint(n) {
					t.Fatalf("message %d is %s", n, m)
				}
			}
			var refusal *Error
			err = c.Reauthenticate(t.Context(), prover(h, "pen"))
			if !errors.As(err, &refusal) || refusal.Reason != packet.NotAuthorized {
				t.Errorf("with a wrong password: %v", err)
			}
			_, err = Dial(t.Context(), address, Options{Version: packet.V5, Prover: prover(h, "pen")})
			if !errors.As(err, &refusal) || refusal.Reason != packet.NotAuthorized {
				t.Errorf("with a wrong password: %v", err)
			}
		})
	}
}
