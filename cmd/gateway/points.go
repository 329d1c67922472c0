package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
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
	sources []sensors.Source
	inputs  []sensors.Point
	feed    *sensors.Feed
	desk    *sensors.Desk
	outputs []*gpio.Output
	links   []string // bridges that outputs depend on
	targets []string // points that take commands

	client   *broker.Client
	stopAll  context.CancelFunc // drivers and commands
	stopFeed context.CancelFunc
	running  sync.WaitGroup // drivers, desk and commands
	feeding  sync.WaitGroup
}

// newPoints makes the points of a configuration. Outputs take their lines here, at their safe
// levels.
func newPoints(c *config.Config, b board.Board, log *slog.Logger) (p *points, err error) {
	p = &points{log: log, stopAll: func() {}, stopFeed: func() {}}
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
			return nil, usageError{err}
		}
		outputs = append(outputs, more...)
	}
	for _, o := range outputs {
		p.targets = append(p.targets, o.Point)
		if o.Link != "" {
			p.links = append(p.links, o.Link)
		}
	}
	p.desk, err = sensors.NewDesk(log, outputs...)
	return p, err
}

func (p *points) gpioOutput(o config.Output, b board.Board) sensors.Output {
	actuator := gpio.NewOutput(b, outputLine(o))
	p.outputs = append(p.outputs, actuator)
	out := sensors.Output{
		Point: o.Point, Actuator: actuator, Kind: sensors.Switch,
		Words: sensors.Words{On: o.On, Off: o.Off}, Format: format(o.Payload),
		MaxAge: o.MaxAge, MinOn: o.MinOn, MinOff: o.MinOff, Lease: o.Lease,
	}
	if l := o.LinkLoss; l != nil {
		out.Link, out.LinkLoss = l.Bridge, l.After
	}
	return out
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

// serial makes the points of one port, and returns the outputs that are behind it.
func (p *points) serial(s config.Serial, b board.Board) ([]sensors.Output, error) {
	formats := map[string]serial.Format{"json": serial.JSON, "split": serial.Split, "regexp": serial.Regexp}
	kinds := map[string]sensors.Kind{"number": sensors.Number, "bool": sensors.Switch, "text": sensors.Text}
	c := serial.Config{
		Port:      board.PortConfig{Name: s.Port, Baud: s.Baud, DataBits: s.DataBits, Parity: s.Parity, StopBits: s.StopBits},
		Delimiter: s.Delimiter, MaxFrame: int(s.MaxFrame), Idle: s.Idle,
	}
	for _, f := range s.Frames {
		frame := serial.Frame{Format: formats[f.Format], Match: f.Match, Separator: f.Separator, Pattern: f.Pattern}
		for _, v := range f.Fields {
			frame.Fields = append(frame.Fields, serial.Field{
				Field: v.Field, Point: v.Point, Kind: kinds[v.Type], Unit: v.Unit,
				Calibration: sensors.Calibration{Scale: v.Scale, Offset: v.Offset},
			})
			p.inputs = append(p.inputs, fieldPoint(v))
		}
		c.Frames = append(c.Frames, frame)
	}
	for _, w := range s.Writes {
		c.Writes = append(c.Writes, serial.Write{Point: w.Point, Template: w.Template})
	}
	d, err := serial.New(b, c, p.log)
	if err != nil {
		return nil, err
	}
	p.sources = append(p.sources, sensors.Source{Name: "serial port " + s.Port, Driver: d, Points: d.Points()})
	var outputs []sensors.Output
	for _, w := range s.Writes {
		outputs = append(outputs, sensors.Output{
			Point: w.Point, Actuator: d.Actuator(w.Point), Bus: s.Port, Kind: sensors.Text, MaxAge: w.MaxAge,
		})
	}
	return outputs, nil
}

func fieldPoint(f config.Field) sensors.Point {
	filter := sensors.Filter{Deadband: f.Deadband, Heartbeat: f.Heartbeat, MinInterval: f.MinInterval}
	if f.Min != nil || f.Max != nil {
		filter.Range = &sensors.Range{Min: math.Inf(-1), Max: math.Inf(1)}
		if f.Min != nil {
			filter.Range.Min = *f.Min
		}
		if f.Max != nil {
			filter.Range.Max = *f.Max
		}
	}
	return sensors.Point{Topic: f.Point, Format: format(f.Payload), Filter: filter, NoRetain: !f.Retain}
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
		return usageError{err}
	}
	if err := p.subscribe(); err != nil {
		return err
	}
	feeding, stopFeed := context.WithCancel(context.Background())
	running, stopAll := context.WithCancel(context.Background())
	p.stopFeed, p.stopAll = stopFeed, stopAll
	p.feeding.Go(func() { p.ended("feed", p.feed.Run(feeding)) })
	p.running.Go(func() { p.ended("desk", p.desk.Run(running, publisher{p.client})) })
	p.running.Go(func() { p.commands(running) })
	for _, s := range p.sources {
		p.running.Go(func() { s.Run(running, p.feed.Emit, log) })
	}
	return nil
}

func (p *points) ended(part string, err error) {
	if err != nil {
		p.log.Error("ended with an error", "part", part, "error", err)
	}
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
func (p *points) commands(ctx context.Context) {
	links := make(map[string]string)
	for _, l := range p.links {
		links[bridge.LocalStateTopic(l)] = l
	}
	for {
		m, _, err := p.client.Next(ctx)
		if err != nil {
			return
		}
		if link, ok := links[m.Topic]; ok {
			var s bridge.State
			p.desk.Link(link, json.Unmarshal(m.Payload, &s) == nil && s.State == bridge.Connected)
			continue
		}
		c := sensors.Command{Point: strings.TrimSuffix(m.Topic, "/set"), Payload: m.Payload, Retained: m.Retain}
		if m.Properties != nil {
			c.Correlation = m.Properties.CorrelationData
		}
		p.desk.Handle(c)
		if m.QoS > 0 {
			p.client.Done(m.ID)
		}
	}
}

// stop ends the drivers, makes the outputs safe, and publishes that.
func (p *points) stop() error {
	p.stopAll()
	p.running.Wait()
	p.stopFeed()
	p.feeding.Wait()
	if p.client != nil {
		return p.client.Close()
	}
	return p.makeSafe()
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
