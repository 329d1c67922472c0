package bridge

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/auth/scram"
	"gateway/broker/packet"
	durable "gateway/offline"
)

// asking runs a broker as the cloud, whose clients have to use SCRAM, and returns what arrives at it.
func asking(t *testing.T) (url string, arrived func() []string) {
	t.Helper()
	dir := t.TempDir()
	keys, err := scram.NewKeys(scram.SHA256, "pencil", scram.MinIterations)
	if err == nil {
		err = scram.Set(filepath.Join(dir, "users"), "site", time.Time{}, keys)
	}
	if err != nil {
		t.Fatal(err)
	}
	users, err := scram.Open(filepath.Join(dir, "users"), make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	store, err := durable.Open(filepath.Join(dir, "store"), durable.Options{Log: log})
	if err != nil {
		t.Fatal(err)
	}
	server, err := broker.New(broker.Options{Store: store, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	watcher, err := server.Connect(broker.ClientOptions{ID: "watcher", CleanStart: true})
	if err == nil {
		_, err = watcher.Subscribe(packet.Subscribe{ID: 1, Filters: []packet.Subscription{{Filter: "#", QoS: 1}}})
	}
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		m := &scram.Mechanism{Hash: scram.SHA256, Users: users}
		served <- server.Serve(ln, broker.Listener{Name: "cloud", Auth: auth.Chain{}, Mechanisms: []auth.Mechanism{m}})
	}()
	var mu sync.Mutex
	var got []string
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			p, _, err := watcher.Next(context.Background())
			if err != nil {
				return
			}
			watcher.Done(p.ID)
			mu.Lock()
			got = append(got, string(p.Payload))
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		for _, err := range []error{watcher.Close(), server.Close(), <-served, store.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
		<-watched
	})
	return "mqtt://" + ln.Addr().String(), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(got)
	}
}

func scramAs(name, password string) func() (Prover, error) {
	return func() (Prover, error) { return scram.NewClient(scram.SHA256, name, password) }
}

// A bridge that has to show that it knows its password does, at each connection.
func TestProver(t *testing.T) {
	l := newLedger(t, 0)
	url, arrived := asking(t)
	config := testConfig(t, l, url)
	config.Version, config.Prover = packet.V5, scramAs("site", "pencil")
	l.add(message("up/a", 1, 0), message("up/a", 1, 1))
	_, stop := start(t, config)
	l.empty(t)
	stop()
	l.add(message("up/a", 1, 2))
	start(t, config)
	l.empty(t)
	eventually(t, "three messages", func() bool { return slices.Equal(arrived(), []string{"0", "1", "2"}) })

	config.Version = packet.V311
	if _, err := New(config); err == nil || !strings.Contains(err.Error(), "5.0") {
		t.Errorf("in 3.1.1: %v", err)
	}
}

func TestProverRefused(t *testing.T) {
	url, _ := asking(t)
	for _, tt := range []struct {
		name   string
		prover func() (Prover, error)
		want   string
	}{
		{"wrong password", scramAs("site", "pencils"), "does not authorise"},
		{"unknown", scramAs("sites", "pencil"), "does not authorise"},
		{"no method", nil, "refuses user name or password"},
		{"no password", scramAs("site", ""), "the password is empty"},
		{"no prover", func() (Prover, error) { return nil, errors.New("no file") }, "no file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLedger(t, 0)
			config := testConfig(t, l, url)
			config.Version, config.Prover = packet.V5, tt.prover
			b, _ := start(t, config)
			eventually(t, tt.want, func() bool { return strings.Contains(b.State().LastError, tt.want) })
		})
	}
}

// A parrot is a Prover that is content with a cloud that says "bye".
type parrot struct{ heard string }

func (*parrot) Method() string { return "PARROT" }

func (p *parrot) Next(data []byte) ([]byte, error) {
	if p.heard = string(data); p.heard == "squawk" {
		return nil, errors.New("too loud")
	}
	return data, nil
}

func (p *parrot) Verified() bool { return p.heard == "bye" }

// A cloud that does not keep to the method is not gone on with.
func TestProverBadCloud(t *testing.T) {
	const more = packet.ContinueAuthentication
	connack := func(method, data string) *packet.Connack {
		return &packet.Connack{Properties: &packet.ConnackProperties{HasAuthMethod: method != "", AuthMethod: method, AuthData: []byte(data)}}
	}
	for _, tt := range []struct {
		name   string
		prover bool
		answer interface {
			Append([]byte, packet.Version) []byte
		}
		want string
	}{
		{"AUTH without a method", false, &packet.Auth{Reason: more, Method: "PARROT"}, "MQTT-4.12.0-6"},
		{"another method", true, &packet.Auth{Reason: more, Method: "PLAIN"}, "MQTT-4.12.0-5"},
		{"another reason", true, &packet.Auth{Reason: packet.Reauthenticate, Method: "PARROT"}, "MQTT-4.12.0-2"},
		{"an empty AUTH", true, &packet.Auth{}, "MQTT-4.12.0-2"},
		{"the prover fails", true, &packet.Auth{Reason: more, Method: "PARROT", Data: []byte("squawk")}, "too loud"},
		{"nothing shown", true, connack("PARROT", "hello"), "without having shown"},
		{"shown wrong", true, connack("PARROT", "squawk"), "too loud"},
		{"no method in CONNACK", true, connack("", ""), "MQTT-4.12.0-5"},
		{"no properties in CONNACK", true, &packet.Connack{}, "MQTT-4.12.0-5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					_, _ = conn.Read(make([]byte, 1000)) // CONNECT
					_, _ = conn.Write(tt.answer.Append(nil, packet.V5))
					_, _ = conn.Read(make([]byte, 1000))
					conn.Close()
				}
			}()
			l := newLedger(t, 0)
			config := testConfig(t, l, "mqtt://"+ln.Addr().String())
			config.Version = packet.V5
			if tt.prover {
				config.Prover = func() (Prover, error) { return new(parrot), nil }
			}
			b, stop := start(t, config)
			eventually(t, tt.want, func() bool { return strings.Contains(b.State().LastError, tt.want) })
			ln.Close()
			stop()
			<-ended
		})
	}
}
