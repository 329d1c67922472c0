package sim_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gateway/board"
	"gateway/board/sim"
	"gateway/sensors"
	"gateway/sensors/serial"
)

// A mirror keeps the newest payload of each topic, as a broker's retained messages do.
type mirror struct {
	mu   sync.Mutex
	last map[string]string
}

func (m *mirror) Publish(topic string, payload []byte, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last[topic] = string(payload)
	return nil
}

// value returns the value of the newest payload of a topic.
func (m *mirror) value(t *testing.T, topic string) any {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	var v struct{ Value any }
	if err := json.Unmarshal([]byte(m.last[topic]), &v); err != nil {
		t.Fatalf("%s: %q: %v", topic, m.last[topic], err)
	}
	return v.Value
}

// A window is the actuator of an output line.
type window struct{ line board.Line }

func (w window) Write(_ context.Context, v sensors.Value) error { return w.line.Set(v == true) }
func (w window) Read(context.Context) (sensors.Value, error)    { return w.line.Get() }
func (w window) MakeSafe(context.Context) error                 { return w.line.Set(false) }

// From the port of the simulated house to topics within 2 s, and from a command to cooler air.
func TestReadingsAndCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		house := sim.New(sim.Options{DoorEvery: -1})
		line, err := house.Line(board.LineConfig{Name: "VENT", Output: true})
		if err != nil {
			t.Fatal(err)
		}
		desk, err := sensors.NewDesk(log, sensors.Output{
			Point: "greenhouse/vent", Actuator: window{line}, Kind: sensors.Switch, Words: sensors.Words{On: "open", Off: "closed"},
		})
		if err != nil {
			t.Fatal(err)
		}
		port, err := serial.New(house, serial.Config{
			Port: board.PortConfig{Name: "sim:climate", Baud: 9600},
			Idle: time.Minute,
			Frames: []serial.Frame{{Format: serial.JSON, Fields: []serial.Field{
				{Field: "air", Point: "greenhouse/air", Unit: "°C"},
				{Field: "vent", Point: "greenhouse/vent/position", Unit: "%"},
			}}},
		}, log)
		if err != nil {
			t.Fatal(err)
		}
		topics := &mirror{last: make(map[string]string)}
		var points []sensors.Point
		for _, p := range port.Points() {
			points = append(points, sensors.Point{Topic: p})
		}
		feed, err := sensors.NewFeed(topics, log, points...)
		if err != nil {
			t.Fatal(err)
		}
		if err := desk.MakeSafe(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = desk.Run(ctx, topics) })
		wg.Go(func() { _ = feed.Run(ctx) })
		wg.Go(func() {
			sensors.Source{Name: "sim", Driver: port, Points: port.Points()}.Run(ctx, feed.Emit, log)
		})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		before := topics.value(t, "greenhouse/air").(float64)
		if s := topics.value(t, "greenhouse/vent/state"); s != "closed" {
			t.Errorf("the vent is %v at start", s)
		}
		desk.Handle(sensors.Command{Point: "greenhouse/vent", Payload: []byte("open")})
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if after := topics.value(t, "greenhouse/air").(float64); after > before-0.8 {
			t.Errorf("the vent is open: %v °C became %v °C", before, after)
		}
		if s, p := topics.value(t, "greenhouse/vent/state"), topics.value(t, "greenhouse/vent/position"); s != "open" || p != 100.0 {
			t.Errorf("state %v, position %v", s, p)
		}
		cancel()
		wg.Wait()
		if s := topics.value(t, "greenhouse/vent/state"); s != "closed" {
			t.Errorf("the vent is %v at the end", s)
		}
	})
}
