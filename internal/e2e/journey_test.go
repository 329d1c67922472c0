package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gateway/broker/packet"
	"gateway/internal/client"
)

// TestGreenhouse does what a new user does with the simulated greenhouse: look, open the vent,
// watch the air cool, leave.
func TestGreenhouse(t *testing.T) {
	g := newGateway(t)
	text, err := os.ReadFile("../../docs/examples/sim.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text = regexp.MustCompile(`data: \S+`).ReplaceAll(text, []byte("data: "+g.folder))
	text = bytes.ReplaceAll(text, []byte("127.0.0.1:1883"), []byte(g.address))
	if err := os.WriteFile(g.config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	g.start("--live")

	points := newBoard()
	watcher := g.connect(client.Options{Receive: points.add})
	subscribe(t, watcher, "greenhouse/#", 1)
	eventually(t, 2*time.Second-time.Since(start), "readings flow", func() bool {
		_, air := points.number("greenhouse/air")
		_, soil := points.number("greenhouse/soil")
		return air && soil
	})
	eventually(t, 2*time.Second-time.Since(start), "the terminal shows them, and what to try next", func() bool {
		return len(g.log.lines("greenhouse/air ", "°C")) > 0 && len(g.log.lines("sub")) > 0 &&
			len(g.log.lines("pub", "greenhouse/vent/set open")) > 0
	})
	if state := points.text("greenhouse/vent/state"); state != "closed" {
		t.Errorf("the vent is %q at start, want the safe state, closed", state)
	}

	g.run("pub", "greenhouse/heater/set", "on") // there is something to cool, in any season
	eventually(t, 10*time.Second, "the heater is on", func() bool { return points.text("greenhouse/heater/state") == "on" })
	before, _ := points.number("greenhouse/air")
	eventually(t, 20*time.Second, "the air warms", func() bool {
		air, _ := points.number("greenhouse/air")
		return air > before+1
	})
	g.run("pub", "greenhouse/heater/set", "off")
	g.run("pub", "greenhouse/vent/set", "open")
	eventually(t, 5*time.Second, "the state shows the vent open", func() bool { return points.text("greenhouse/vent/state") == "open" })
	warm, _ := points.number("greenhouse/air")
	eventually(t, 20*time.Second, "the air cools", func() bool {
		air, _ := points.number("greenhouse/air")
		return air < warm-0.5
	})
	if state := g.run("sub", "-C", "1", "-W", "5", "greenhouse/vent/state"); !strings.Contains(state, `"open"`) {
		t.Errorf("gateway sub prints %q, want the retained state, open", state)
	}
	if took, code := g.interrupt(2 * time.Second); code != 0 {
		t.Errorf("exit code %d after %v, want 0", code, took)
	}
	<-watcher.Done()
	if state := points.text("greenhouse/vent/state"); state != "closed" {
		t.Errorf("the vent was left %q, want it in its safe state, closed", state)
	}
}

// run runs a command of the gateway's binary against the gateway and returns what it prints.
func (g *gateway) run(command string, args ...string) string {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append([]string{command, "--url", "mqtt://" + g.address}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		g.t.Fatalf("gateway %s %q: %v\n%s", command, args, err, out)
	}
	return string(out)
}

// A board shows the last value of every point.
type board struct{ *inbox }

func newBoard() *board { return &board{&inbox{}} }

func (b *board) add(m packet.Publish) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.got = append(b.got, m.Topic+" "+string(m.Payload))
}

// value returns the last value of a point, nil if there is none.
func (b *board) value(point string) any {
	for _, line := range slices.Backward(b.texts()) {
		topic, payload, _ := strings.Cut(line, " ")
		var reading struct{ Value any }
		if topic == point && json.Unmarshal([]byte(payload), &reading) == nil {
			return reading.Value
		}
	}
	return nil
}

func (b *board) number(point string) (float64, bool) {
	n, ok := b.value(point).(float64)
	return n, ok
}

func (b *board) text(point string) string { return fmt.Sprint(b.value(point)) }

// TestCommandsFromCloud takes messages down: those that were sent while the line was cut come
// once, in order, when it is back.
func TestCommandsFromCloud(t *testing.T) {
	c := newCloud(t)
	line := newLink(t, c.address)
	g := newGateway(t, bridge(line.address(), c.file, c.valid("greenhouse")))
	g.start()
	in, probes, states := &inbox{}, &inbox{}, &inbox{}
	session := client.Options{
		ClientID: "device", Version: packet.V5, KeepSession: true, SessionExpiry: 3600,
		Session: client.NewSession(), Receive: func(m packet.Publish) {
			if m.Topic == "down/probe" {
				probes.add(m)
			} else {
				in.add(m)
			}
		},
	}
	device := g.connect(session)
	subscribe(t, device, "down/#", 2)
	watcher := g.connect(client.Options{Receive: states.add})
	subscribe(t, watcher, "$SYS/broker/bridge/cloud/state", 1)
	up := func() bool {
		all := states.texts()
		return len(all) > 0 && strings.Contains(all[len(all)-1], `"state":"connected"`)
	}
	eventually(t, 5*time.Second, "the bridge says that it is up", up)

	sender := c.connect("sender", client.Options{})
	eventually(t, 5*time.Second, "the bridge has subscribed", func() bool {
		probe := packet.Publish{Topic: "greenhouse/down/probe", QoS: 1}
		if _, err := sender.Publish(t.Context(), probe); err != nil {
			t.Fatal(err)
		}
		return len(probes.texts()) > 0
	})
	var want []string
	send := func(n int) {
		for range n {
			text := fmt.Sprint(len(want))
			want = append(want, text)
			m := packet.Publish{Topic: "greenhouse/down/vent", QoS: 2, Payload: []byte(text)}
			if _, err := sender.Publish(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(10)
	line.sever()
	eventually(t, 5*time.Second, "the bridge says that it is down", func() bool { return !up() })
	send(20)
	g.kill()
	device.Close()
	g.start()
	g.connect(session)
	line.restore()
	within(t, 10*time.Second, func() bool { return len(in.texts()) >= len(want) })
	if got := in.texts(); !slices.Equal(got, want) {
		t.Errorf("%q came, want %q", got, want)
	}
}

// TestReplug pulls the plug of a serial sensor and puts it back: readings go on by themselves.
func TestReplug(t *testing.T) {
	usb := newPort(t)
	g := newGateway(t, serial(usb.name))
	g.start() // before there is a port
	points := newBoard()
	watcher := g.connect(client.Options{Receive: points.add})
	subscribe(t, watcher, "up/sensor", 1)
	next := 1
	for range 3 {
		usb.plug()
		talk, hush := context.WithCancel(t.Context())
		ended := make(chan int, 1) // the next number
		go func() { ended <- usb.say(talk, 20*time.Millisecond, next) }()
		eventually(t, 10*time.Second, "readings come", func() bool {
			n, ok := points.number("up/sensor")
			return ok && n >= float64(next)
		})
		hush()
		next = <-ended
		usb.unplug()
		eventually(t, 10*time.Second, "the point is told to be bad", func() bool { return points.value("up/sensor") == nil })
	}
}

// TestCommands types what a user types, with the broker there and not there.
func TestCommands(t *testing.T) {
	g := newGateway(t)
	absent := func(args ...string) string {
		out, err := exec.Command(binary, args...).CombinedOutput()
		if err == nil {
			t.Errorf("gateway %q without a broker: exit code 0\n%s", args, out)
		}
		return string(out)
	}
	url := "mqtt://" + g.address
	for _, args := range [][]string{{"health", "--url", url}, {"pub", "--url", url, "a", "b"}, {"sub", "--url", url, "a"}} {
		if out := absent(args...); !strings.Contains(out, "is it running?") || strings.Count(out, "\n") != 1 {
			t.Errorf("gateway %q without a broker says %q", args, out)
		}
	}
	g.start()
	if out := g.run("health"); !strings.HasPrefix(out, "healthy: ") {
		t.Errorf("health says %q", out)
	}
	if out := g.run("pub", "nobody/hears", "this"); !strings.Contains(out, "nobody subscribes") {
		t.Errorf("pub to nobody says %q", out)
	}
	g.run("pub", "-r", "shelf/a", "one line")
	g.run("pub", "-r", "-q", "2", "-V", "311", "shelf/b", "two\nlines")
	lines := strings.Split(g.run("sub", "-C", "2", "-W", "5", "shelf/#"), "\n")
	slices.Sort(lines) // retained messages have no order
	if !slices.Equal(lines, []string{"", "shelf/a one line", `shelf/b "two\nlines"`}) {
		t.Errorf("sub prints %q", lines)
	}
	if out := g.run("sub", "-v=false", "-C", "1", "-W", "5", "shelf/b"); out != "two\nlines\n" {
		t.Errorf("sub -v=false prints %q", out)
	}
	var m struct {
		Topic, Payload string
		Retain         bool
	}
	out := g.run("sub", "--json", "-C", "1", "-W", "5", "shelf/a")
	if err := json.Unmarshal([]byte(out), &m); err != nil || m.Topic != "shelf/a" || m.Payload != "one line" || !m.Retain {
		t.Errorf("sub --json prints %q: %+v, %v", out, m, err)
	}
	g.run("pub", "-r", "-n", "shelf/a")
	if out := absent("sub", "--url", url, "-C", "1", "-W", "1", "shelf/a"); !strings.Contains(out, "0 of 1 messages") {
		t.Errorf("sub after the retained message was removed says %q", out)
	}
	file := filepath.Join(t.TempDir(), "out")
	sub := launch(t, "gateway sub", &output{}, "/bin/sh", "-c", `exec "$0" sub --url "$1" 'lines/#' > "$2"`, binary, url, file)
	var n int
	eventually(t, 10*time.Second, "sub prints lines of pub -l", func() bool {
		cmd := exec.Command(binary, "pub", "--url", url, "-l", "lines/a")
		cmd.Stdin = strings.NewReader("x\ny\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("pub -l: %v\n%s", err, out)
		}
		printed, err := os.ReadFile(file)
		n = strings.Count(string(printed), "lines/a x\nlines/a y\n")
		return err == nil && n > 0
	})
	if took, code := sub.interrupt(2 * time.Second); code != 0 {
		t.Errorf("sub ends %v after Ctrl-C with exit code %d, want 0", took, code)
	}
}
