package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gateway/board"
	"gateway/bridge"
	"gateway/broker"
	"gateway/broker/packet"
	"gateway/config"
	"gateway/sensors"
	"gateway/sensors/gpio"
	"gateway/sensors/serial"
)

// points are the sensors and actuators of the gateway.
type points struct {
	log     *slog.Logger
	day     sensors.Calendar
	sources []sensors.Source
	inputs  []sensors.Point
	feed    *sensors.Feed
	desk    *sensors.Desk
	outputs []*gpio.Output
	links   []string // bridges that outputs depend on
	targets []string // points that take commands

	client *broker.Client
	stops  []func() // end the parts that run, the last one first, and wait for them
}

// newPoints makes the points of a configuration. Outputs take their lines here, at their safe
// levels.
func newPoints(c *config.Config, b board.Board, day sensors.Calendar, log *slog.Logger) (p *points, err error) {
	p = &points{log: log, day: day}
	var outputs []sensors.Output
	for _, o := range c.Outputs {
		outputs = append(outputs, p.gpioOutput(o, b))
	}
	for _, in := range c.Inputs {
		p.gpioInput(in, b)
	}
	for _, s := range c.Serial {
		more, err := p.serial(s, b)
		if err != nil {
			return nil, configError{err}
		}
		outputs = append(outputs, more...)
	}
	for _, o := range outputs {
		p.targets = append(p.targets, o.Point)
		if o.Link != "" {
			p.links = append(p.links, o.Link)
		}
	}
	if p.desk, err = sensors.NewDesk(log, outputs...); err != nil {
		return nil, err
	}
	p.desk.Calendar = day
	return p, nil
}

// topics are those that only the gateway itself has something to say about: its readings and states.
func (p *points) topics() map[string]bool {
	own := make(map[string]bool)
	for _, in := range p.inputs {
		own[in.Topic] = true
	}
	for _, point := range p.targets {
		own[point+"/state"] = true
	}
	return own
}

func (p *points) gpioOutput(o config.Output, b board.Board) sensors.Output {
	actuator := gpio.NewOutput(b, outputLine(o))
	p.outputs = append(p.outputs, actuator)
	return commanded(sensors.Output{
		Point: o.Point, Actuator: actuator, Kind: sensors.Switch,
		Words: sensors.Words{On: o.On, Off: o.Off}, MinOn: o.MinOn, MinOff: o.MinOff,
	}, o.Command)
}

// commanded adds what all outputs have in common.
func commanded(o sensors.Output, c config.Command) sensors.Output {
	o.Format, o.MaxAge, o.Lease = format(c.Payload), c.MaxAge, c.Lease
	if c.LinkLoss != nil {
		o.Link, o.LinkLoss = c.LinkLoss.Bridge, c.LinkLoss.After
	}
	return o
}

// outputLine returns the line of an output, which begins at the safe level.
func outputLine(o config.Output) board.LineConfig {
	return board.LineConfig{Name: o.Line, Output: true, Initial: o.SafeOn(), ActiveLow: o.ActiveLow}
}

func outputLines(c *config.Config) []board.LineConfig {
	var lines []board.LineConfig
	for _, o := range c.Outputs {
		lines = append(lines, outputLine(o))
	}
	return lines
}

func (p *points) gpioInput(in config.Input, b board.Board) {
	pulls := map[string]board.Pull{"up": board.PullUp, "down": board.PullDown}
	line := board.LineConfig{Name: in.Line, ActiveLow: in.ActiveLow, Pull: pulls[in.Pull], Debounce: in.Debounce}
	p.sources = append(p.sources, sensors.Source{
		Name:   "line " + in.Line,
		Driver: &gpio.Input{Point: in.Point, Line: line, Board: b, Heartbeat: in.Heartbeat},
		Points: []string{in.Point},
	})
	p.inputs = append(p.inputs, sensors.Point{
		Topic: in.Point, Words: sensors.Words{On: in.On, Off: in.Off}, Format: format(in.Payload),
		Filter: sensors.Filter{Heartbeat: in.Heartbeat, MinInterval: in.MinInterval}, NoRetain: !in.Retain,
	})
}

var (
	formats = map[string]serial.Format{"json": serial.JSON, "split": serial.Split, "regexp": serial.Regexp}
	kinds   = map[string]sensors.Kind{"number": sensors.Number, "bool": sensors.Switch, "text": sensors.Text}
)

// serial makes the points of one port, and returns the outputs that are behind it.
func (p *points) serial(s config.Serial, b board.Board) (outputs []sensors.Output, err error) {
	c := serial.Config{
		Port:      board.PortConfig{Name: s.Port, Baud: s.Baud, DataBits: s.DataBits, Parity: s.Parity, StopBits: s.StopBits},
		Delimiter: s.Delimiter, MaxFrame: int(s.MaxFrame), Idle: s.Idle,
	}
	for _, f := range s.Frames {
		frame := serial.Frame{Format: formats[f.Format], Match: f.Match, Separator: f.Separator, Pattern: f.Pattern}
		for _, v := range f.Fields {
			frame.Fields = append(frame.Fields, serial.Field{
				Field: v.Field, Point: v.Point, Kind: kinds[v.Type], Unit: v.Unit,
				Words:       sensors.Words{On: v.On, Off: v.Off},
				Calibration: sensors.Calibration{Scale: v.Scale, Offset: v.Offset},
			})
			p.inputs = append(p.inputs, fieldPoint(v))
		}
		c.Frames = append(c.Frames, frame)
	}
	for _, w := range s.Writes {
		write := serial.Write{Point: w.Point, Template: w.Template, Words: sensors.Words{On: w.On, Off: w.Off}, Reply: w.Reply}
		if w.Safe != "" {
			if write.Safe, err = writeValue(w); err != nil {
				return nil, err
			}
		}
		c.Writes = append(c.Writes, write)
	}
	d, err := serial.New(b, c, p.log)
	if err != nil {
		return nil, err
	}
	p.sources = append(p.sources, sensors.Source{Name: "serial port " + s.Port, Driver: d, Points: d.Points()})
	for _, w := range s.Writes {
		outputs = append(outputs, commanded(sensors.Output{
			Point: w.Point, Actuator: d.Actuator(w.Point), Bus: s.Port, Kind: kinds[w.Type], Unit: w.Unit,
			Words: sensors.Words{On: w.On, Off: w.Off}, Range: bounds(w.Min, w.Max),
		}, w.Command))
	}
	return outputs, nil
}

// writeValue returns the safe value of a write, as the type says.
func writeValue(w config.Write) (sensors.Value, error) {
	switch w.Type {
	case "number":
		v, err := strconv.ParseFloat(w.Safe, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: safe: %q is no number", w.Point, w.Safe)
		}
		return v, nil
	case "bool":
		return w.Safe == w.On, nil
	default:
		return w.Safe, nil
	}
}

func fieldPoint(f config.Field) sensors.Point {
	if f.Heartbeat == 0 {
		f.Deadband = 0 // every reading is reported
	}
	return sensors.Point{
		Topic: f.Point, Words: sensors.Words{On: f.On, Off: f.Off}, Format: format(f.Payload), NoRetain: !f.Retain,
		Filter: sensors.Filter{
			Range: bounds(f.Min, f.Max), Deadband: f.Deadband, Heartbeat: f.Heartbeat, MinInterval: f.MinInterval,
		},
	}
}

// bounds returns the range of two limits that may be absent, nil if both are.
func bounds(low, high *float64) *sensors.Range {
	if low == nil && high == nil {
		return nil
	}
	r := &sensors.Range{Min: math.Inf(-1), Max: math.Inf(1)}
	if low != nil {
		r.Min = *low
	}
	if high != nil {
		r.Max = *high
	}
	return r
}

func format(payload string) sensors.Format {
	if payload == "plain" {
		return sensors.Plain
	}
	return sensors.JSON
}

// safeTime is how long all outputs together may take to become safe.
const safeTime = time.Second

func (p *points) makeSafe() error {
	ctx, cancel := context.WithTimeout(context.Background(), safeTime)
	defer cancel()
	return p.desk.MakeSafe(ctx)
}

// run connects the points with the broker and starts the drivers.
func (p *points) run(server *broker.Server, log *slog.Logger) (err error) {
	p.client, err = server.Connect(broker.ClientOptions{ID: "$points", CleanStart: true})
	if err != nil {
		return err
	}
	if p.feed, err = sensors.NewFeed(publisher{p.client}, log, p.inputs...); err != nil {
		return configError{err}
	}
	p.feed.Calendar = p.day
	if err := p.subscribe(); err != nil {
		return err
	}
	p.start("feed", p.feed.Run)
	p.start("drivers", func(ctx context.Context) error {
		var running sync.WaitGroup
		for _, s := range p.sources {
			running.Go(func() { s.Run(ctx, p.feed.Emit, log) })
		}
		running.Wait()
		return nil
	})
	p.start("desk", func(ctx context.Context) error { return p.desk.Run(ctx, publisher{p.client}) })
	p.start("commands", p.commands)
	return nil
}

// start runs a part until stop comes to it.
func (p *points) start(part string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := run(ctx); err != nil {
			p.log.Error("ended with an error", "part", part, "error", err)
		}
	})
	p.stops = append(p.stops, func() { cancel(); done.Wait() })
}

// subscribe asks for the commands, and for the states of the bridges that outputs depend on. The
// session ends with the connection: a command from before a power cut is not carried out after.
func (p *points) subscribe() error {
	var s packet.Subscribe
	for _, point := range p.targets {
		s.Filters = append(s.Filters, packet.Subscription{Filter: point + "/set", QoS: 1})
	}
	for _, link := range p.links {
		s.Filters = append(s.Filters, packet.Subscription{Filter: bridge.LocalStateTopic(link), QoS: 0})
	}
	if len(s.Filters) == 0 {
		return nil
	}
	_, err := p.client.Subscribe(s)
	return err
}

// commands hands commands to the desk until ctx ends.
func (p *points) commands(ctx context.Context) error {
	links := make(map[string]string)
	for _, l := range p.links {
		links[bridge.LocalStateTopic(l)] = l
	}
	for {
		m, _, err := p.client.Next(ctx)
		if ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
		if link, ok := links[m.Topic]; ok {
			var s bridge.State
			p.desk.Link(link, json.Unmarshal(m.Payload, &s) == nil && s.State == bridge.Connected)
			continue
		}
		c := sensors.Command{Point: strings.TrimSuffix(m.Topic, "/set"), Payload: m.Payload, Retained: m.Retain}
		if m.Properties != nil {
			c.Correlation, c.Age = m.Properties.CorrelationData, waited(m.Properties.User)
		}
		p.desk.Handle(c)
		if m.QoS > 0 {
			p.client.Done(m.ID)
		}
	}
}

// waited returns how long a message may have waited in the cloud.
func waited(properties []packet.UserProperty) (age time.Duration) {
	for _, p := range properties {
		if n, err := strconv.ParseInt(p.Value, 10, 32); p.Name == bridge.WaitedProperty && err == nil {
			age = max(age, time.Duration(n)*time.Second)
		}
	}
	return age
}

// stop takes no more commands, makes the outputs safe, publishes that, and ends the drivers.
func (p *points) stop() error {
	for _, stop := range slices.Backward(p.stops) {
		stop()
	}
	if p.client == nil {
		return p.makeSafe()
	}
	return p.client.Close()
}

// release lets the lines go.
func (p *points) release() error {
	var errs []error
	for _, o := range p.outputs {
		errs = append(errs, o.Close())
	}
	return errors.Join(errs...)
}

// A publisher publishes readings and states at QoS 1. Nobody waits for them, so they share the
// commits of the disk.
type publisher struct{ client *broker.Client }

func (p publisher) Publish(topic string, payload []byte, retain bool) error {
	p.client.Publish(packet.Publish{Topic: topic, Payload: payload, QoS: 1, Retain: retain}, nil)
	return nil
}
