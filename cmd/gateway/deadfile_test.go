package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gateway/bridge"
	"gateway/broker/packet"
	"gateway/broker/session"
	"gateway/offline"
)

// lettersFile makes a store with one dead letter of the bridge "cloud", whose gateway has ended.
func lettersFile(t *testing.T) (path string) {
	t.Helper()
	path, s := storeFile(t)
	dead := &session.Opened{Client: bridge.DeadTopic("cloud"), Expiry: 0xFFFFFFFF, Version: packet.V5}
	queue := &session.Opened{Client: bridgeSession("cloud", 0), Expiry: 0xFFFFFFFF, Version: packet.V5}
	s.Submit([]session.Change{dead, queue}, true, nil)
	letter := packet.Publish{QoS: 1, Topic: bridge.DeadTopic("cloud") + "/air", Payload: []byte("21"), Properties: &packet.PublishProperties{
		User: []packet.UserProperty{{Name: bridge.DeadReasonProperty, Value: "too large"}}}}
	done := make(chan error, 1)
	s.Submit([]session.Change{&session.Enqueued{Message: &session.Message{Publish: letter},
		To: []*session.Target{{Client: dead.Client, Incarnation: dead.Incarnation, QoS: 1}}}}, false, func(err error) { done <- err })
	if err := errors.Join(<-done, s.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestDeadFile: dead letters are listed, given back and thrown away while no gateway runs. A store that is
// damaged, or is not there, stays as it is.
func TestDeadFile(t *testing.T) {
	path := lettersFile(t)
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out, err := command("store", "dead", path)
	var line deadLine
	if err != nil || json.Unmarshal([]byte(out), &line) != nil || line.Bridge != "cloud" || line.Topic != "air" || line.Reason != "too large" {
		t.Errorf("the list: %q %v", out, err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, sound) {
		t.Errorf("the list has changed the file: %v", err)
	}

	broken := filepath.Join(t.TempDir(), "store.db")
	damaged := bytes.Clone(sound)
	for page := 2; page < len(damaged)/4096; page++ {
		clear(damaged[page*4096 : (page+1)*4096])
	}
	if err := os.WriteFile(broken, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(t.TempDir(), "store.db")
	for _, tt := range []struct {
		file string
		args string
		is   error
		says string
	}{
		{broken, "", offline.ErrDamaged, ""},
		{broken, "--replay cloud", offline.ErrDamaged, "start the gateway"},
		{broken, "--discard cloud", offline.ErrDamaged, "start the gateway"},
		{missing, "", fs.ErrNotExist, ""},
		{missing, "--replay cloud", fs.ErrNotExist, "store.path"},
		{missing, "--discard cloud", fs.ErrNotExist, "store.path"},
	} {
		_, err := command(append([]string{"store", "dead", tt.file}, strings.Fields(tt.args)...)...)
		if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s %s: %v", tt.file, tt.args, err)
		}
		var there []string
		entries, _ := os.ReadDir(filepath.Dir(tt.file))
		for _, e := range entries {
			there = append(there, e.Name())
		}
		if after, err := os.ReadFile(tt.file); tt.file == broken && (err != nil || !bytes.Equal(after, damaged) || len(there) != 1) || tt.file == missing && len(there) != 0 {
			t.Errorf("%s %s: the folder has %q", tt.file, tt.args, there)
		}
	}

	small := filepath.Join(t.TempDir(), "gateway.yaml")
	if err := os.WriteFile(small, []byte("board: sim\nstore: {max_size: 1MB}\noutputs: [{point: lamp, line: LAMP, safe: off}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := command("store", "dead", path, "--replay", "cloud", "--config", small); err != nil || !strings.HasPrefix(out, "1 messages") {
		t.Errorf("replay: %q %v", out, err)
	}
	if out, err := command("store", "dump", path); err != nil || !strings.Contains(out, `"topic":"air"`) {
		t.Errorf("it is not in the queue: %v\n%s", err, out)
	}
}
