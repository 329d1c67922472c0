package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/broker/session"
	"gateway/config"
	"gateway/offline"
)

// storeFile makes a store that a bridge and a sleeping device have messages in.
func storeFile(t *testing.T) (path string, s *offline.Store) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "store.db")
	s, err := offline.Open(path, offline.Options{})
	if err != nil {
		t.Fatal(err)
	}
	bridge := &session.Opened{Client: "bridge", Expiry: 0xFFFFFFFF, Version: packet.V5}
	device := &session.Opened{Client: "device", Expiry: 60, Version: packet.V311,
		Will: &packet.Will{Topic: "device/state", Payload: []byte("gone")}}
	s.Submit([]session.Change{bridge, device}, true, nil)
	message := func(topic string, payload []byte) *session.Message {
		return &session.Message{At: time.Now(), Publish: packet.Publish{QoS: 1, Topic: topic, Payload: payload,
			Properties: &packet.PublishProperties{MessageExpiry: 0, HasMessageExpiry: true}}}
	}
	done := make(chan error, 1)
	s.Submit([]session.Change{
		&session.Subscribed{Client: "bridge", Subscription: packet.Subscription{Filter: "greenhouse/#", QoS: 2}},
		&session.Enqueued{Message: message("greenhouse/air", []byte("21,5 °C")), To: []*session.Target{
			{Client: "bridge", Incarnation: bridge.Incarnation, QoS: 1},
			{Client: "device", Incarnation: device.Incarnation, QoS: 1},
		}},
		&session.Enqueued{Message: message("greenhouse/image", []byte{0xFF, 0xD8, 0xFF}), To: []*session.Target{
			{Client: "bridge", Incarnation: bridge.Incarnation, QoS: 2, Share: "$share/g/greenhouse/#"},
		}},
		&session.Advanced{Client: "bridge", Position: 2, Stage: session.Accepted},
		&session.Received{Client: "device", ID: 9},
		&session.Closed{Client: "device", At: time.Now()},
		&session.Retained{Message: message("greenhouse/vent/state", []byte("open"))},
	}, false, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return path, s
}

func command(args ...string) (string, error) {
	var out bytes.Buffer
	root := newRoot()
	root.SetOut(&out)
	root.SetArgs(args)
	err := root.Execute()
	return out.String(), err
}

func TestStoreCheck(t *testing.T) {
	path, s := storeFile(t)
	if _, err := command("store", "check", path); !errors.Is(err, offline.ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("while a gateway has it: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := command("store", "check", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"sessions 2", "subscriptions 1", "received identifiers 1", "waiting messages 3",
		"shared messages 1", "retained messages 1"} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.ReplaceAll(content, []byte("21,5"), []byte("99,5")), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err = command("store", "check", path)
	if err == nil || errors.As(err, new(usageError)) || !strings.Contains(out, "problem: body 1: ") {
		t.Errorf("damaged: %v\n%s", err, out)
	}
	for _, args := range [][]string{{"store"}, {"store", "check"}, {"store", "dump", "a", "b"}} {
		if _, err := command(args...); !errors.As(err, new(usageError)) {
			t.Errorf("%q: %v", args, err)
		}
	}
	if _, err := command("store", "check", path+".not"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestStoreDump(t *testing.T) {
	path, s := storeFile(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := command("store", "dump", "--payload-bytes", "6", path)
	if err != nil {
		t.Fatal(err)
	}
	var facts []string
	var enqueued []map[string]any
	for line := range strings.Lines(out) {
		var f map[string]any
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		facts = append(facts, f["fact"].(string))
		if f["fact"] == "enqueued" {
			enqueued = append(enqueued, f)
		}
	}
	const want = "opened subscribed opened closed enqueued enqueued advanced enqueued summary summary retained"
	if got := strings.Join(facts, " "); got != want {
		t.Errorf("facts %s\nwant  %s", got, want)
	}
	for key, want := range map[string]any{
		"client": "bridge", "position": 1.0, "topic": "greenhouse/air", "delivery_qos": 1.0,
		"payload": "21,5 ", "payload_bytes": 8.0, "message_expiry_s": 0.0, // cut before the two bytes of °
	} {
		if got := enqueued[0][key]; got != want {
			t.Errorf("%s is %v, not %v", key, got, want)
		}
	}
	if got := enqueued[1]["payload_base64"]; got != "/9j/" {
		t.Errorf("binary payload: %v", got)
	}
}

// A property that is there and says nothing is told from one that is not there.
func TestDumpProperties(t *testing.T) {
	for want, x := range map[string]packet.PublishProperties{
		`"payload_format":0,"content_type":""`:  {PayloadUnspecified: true, EmptyContentType: true},
		`"payload_format":1,"content_type":"a"`: {PayloadFormat: 1, ContentType: "a"},
		`"payload":""}`:                         {},
	} {
		b, err := json.Marshal(newMessageLine(packet.Publish{Properties: &x}, -1))
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%+v is shown as %s, %v", x, b, err)
		}
	}
}

// TestStoreCommands: stat and backup of a store that a gateway has, and compact and restore of one that
// none has.
func TestStoreCommands(t *testing.T) {
	t.Chdir(t.TempDir()) // the name of a socket must be short
	if err := os.WriteFile("gateway.yaml", []byte("board: sim\ngateway: {data: data}\noutputs: [{point: lamp, line: LAMP, safe: off}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load("gateway.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c.Gateway.Data = "data"
	path := c.StorePath()
	g, err := start(c, slog.New(slog.DiscardHandler), offline.Options{})
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			if err := g.stop(); err != nil {
				t.Error(err)
			}
		}
	}
	defer stop()
	deadline := time.Now().Add(10 * time.Second)
	for {
		out, err := command("store", "stat", "--json", path)
		if err == nil && strings.Contains(out, `"state":"ready"`) && strings.Contains(out, `"writes":{"process_bytes":`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("stat: %q %v", out, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if out, err := command("store", "backup", path, "copy.db"); err != nil {
		t.Fatalf("backup: %q %v", out, err)
	}
	if out, err := command("store", "check", "copy.db"); err != nil {
		t.Errorf("check of the backup: %q %v", out, err)
	}
	for _, args := range [][]string{{"compact", path}, {"restore", "copy.db", path}} {
		if _, err := command(append([]string{"store"}, args...)...); !errors.Is(err, offline.ErrInUse) {
			t.Errorf("%s while the gateway runs: %v", args[0], err)
		}
	}
	if _, err := command("store", "backup", path, "copy.db"); err == nil {
		t.Error("a backup was overwritten")
	}
	stop()
	for _, tt := range []struct{ args, says string }{
		{"compact " + path, "bytes before"},
		{"backup " + path + " second.db", ""},
		{"restore copy.db " + path, ".replaced-"},
		{"stat " + path, "no gateway runs"},
		{"stat --json " + path, `"running":false`},
		{"check " + path, "sessions"},
	} {
		out, err := command(append([]string{"store"}, strings.Fields(tt.args)...)...)
		if err != nil || !strings.Contains(out, tt.says) {
			t.Errorf("store %s: %q %v", tt.args, out, err)
		}
	}
}

// What administrators were answered may have a secret, in the store of an early version: it is not shown.
func TestStoreDumpHidesAnswers(t *testing.T) {
	for _, payload := range []string{`{"secret":"x"}`, "\xff"} {
		line := newMessageLine(packet.Publish{Topic: devicesTopic + "/response", Payload: []byte(payload)}, -1)
		if line.Text != nil || line.Binary != nil || !line.Hidden || line.Bytes != len(payload) {
			t.Errorf("%+v", line)
		}
	}
}

// TestStoreStat: the figures of a store are the same, in the same shape, whether a gateway runs on it or not, and
// are not those of what has happened since it started.
func TestStoreStat(t *testing.T) {
	path, s := storeFile(t)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Dir(path)) // the name of a socket must be short
	path = filepath.Base(path)
	figures := func() (table []string, of offline.Figures, running bool) {
		t.Helper()
		out, err := command("store", "stat", path)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out) {
			for _, what := range []string{"sessions", "subscriptions", "received", "waiting", "retained"} {
				if strings.HasPrefix(line, what) {
					table = append(table, strings.Join(strings.Fields(line), " "))
				}
			}
		}
		out, err = command("store", "stat", "--json", path)
		var r statReport
		if err == nil {
			err = json.Unmarshal([]byte(out), &r)
		}
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if r.FileBytes == 0 || r.DiskBytes == 0 || r.FreeBytes >= r.FileBytes || r.Running != (r.Since != nil) {
			t.Errorf("%s", out)
		}
		return table, r.Figures, r.Running
	}
	want, of, running := figures()
	if running || of.Sessions != 2 || of.Messages != 3 || of.Bytes == 0 || of.Received != 1 || of.Retained != 1 || of.Subscriptions != 1 {
		t.Errorf("without a gateway: %+v", of)
	}
	v := newVault(path, offline.Options{Log: slog.New(slog.DiscardHandler)})
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan struct{})
	go func() { v.serve(ctx, nil, v.options.Log); close(served) }()
	for deadline := time.Now().Add(10 * time.Second); ask(path, "stat", io.Discard) != nil && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	table, of2, running := figures()
	if !running || !slices.Equal(table, want) {
		t.Errorf("with a gateway: %q\nwithout: %q", table, want)
	}
	of.FileBytes, of.FreeBytes, of.DiskBytes = of2.FileBytes, of2.FreeBytes, of2.DiskBytes // it has committed its start
	if of != of2 {
		t.Errorf("with a gateway: %+v\nwithout: %+v", of2, of)
	}
	stop()
	<-served
	if err := v.close(); err != nil {
		t.Error(err)
	}
}
