package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/auth/ban"
	"gateway/broker/auth/device"
	"gateway/broker/auth/service"
	"gateway/broker/packet"
)

// Topics for administration. An answer comes on the topic of its request with /response after it.
const (
	devicesTopic = auth.Control + "devices/v1"
	bansTopic    = auth.Control + "bans/v1"
	cacheTopic   = auth.Control + "cache/v1"
	deadTopic    = auth.Control + "dead/v1"
)

// A control does what administrators ask for over MQTT. Who may ask is decided by the broker: nobody
// else can publish on these topics, or subscribe to the answers.
type control struct {
	devices *device.Registry
	bans    *ban.List
	purge   func(service.Purge) error
	letters *letters
	now     func() time.Time // the time of day
	log     *slog.Logger
}

// run serves until ctx ends.
func (c *control) run(ctx context.Context, server *broker.Server) {
	client, err := server.Connect(broker.ClientOptions{ID: "$control", CleanStart: true})
	if err != nil {
		c.log.Error("the gateway cannot be administered over MQTT", "error", err)
		return
	}
	defer client.Close()
	var s packet.Subscribe
	for _, t := range []string{devicesTopic, bansTopic, cacheTopic, deadTopic} {
		// What is retained is an old request: it is not carried out again at every start.
		s.Filters = append(s.Filters, packet.Subscription{Filter: t, QoS: 1, RetainHandling: 2, RetainAsPublished: true})
	}
	if _, err := client.Subscribe(s); err != nil {
		c.log.Error("the gateway cannot be administered over MQTT", "error", err)
		return
	}
	for {
		p, _, err := client.Next(ctx)
		if err != nil {
			return // the gateway stops
		}
		if p.QoS > 0 {
			client.Done(p.ID)
		}
		r := c.handle(ctx, p.Topic, p.Payload)
		answer, err := json.Marshal(r)
		if err != nil {
			c.log.Error("an answer to an administrator", "error", err)
			continue
		}
		qos := packet.QoS(1)
		if r.Secret != "" {
			qos = 0 // it is for who is there, and nothing of it is kept
		}
		client.Publish(packet.Publish{Topic: p.Topic + "/response", Payload: answer, QoS: qos}, nil)
	}
}

// An order is what an administrator asks for. Which fields count depends on the command.
type order struct {
	Command     string   `json:"command"`
	Correlation string   `json:"correlation"` // comes back in the answer
	Name        string   `json:"name"`
	ClientID    string   `json:"client_id"`
	Expires     string   `json:"expires"` // as on the command line
	Addresses   []string `json:"addresses"`
	Labels      []string `json:"labels"` // KEY=VALUE
	Overlap     string   `json:"overlap"`
	Ban         string   `json:"ban"` // KIND:VALUE
	Reason      string   `json:"reason"`
	Until       string   `json:"until"`
	Client      string   `json:"client"`
	User        string   `json:"user"`
	Bridge      string   `json:"bridge"`
	After       uint64   `json:"after"` // the position of a dead letter
}

// A reply is the answer to an order.
type reply struct {
	Command     string       `json:"command,omitempty"`
	Correlation string       `json:"correlation,omitempty"`
	Error       string       `json:"error,omitempty"`  // empty: it is done, and durable
	Name        string       `json:"name,omitempty"`   // of the device
	Secret      string       `json:"secret,omitempty"` // this once
	Devices     []deviceLine `json:"devices,omitempty"`
	Bans        []ban.Ban    `json:"bans,omitempty"`
	Dead        []deadLine   `json:"dead,omitempty"`
	*cleared                 // by replay and discard
}

// A deviceLine is what is told of a device.
type deviceLine struct {
	Name      string            `json:"name"`
	State     string            `json:"state"`
	ClientID  string            `json:"client_id,omitempty"`
	Addresses []string          `json:"addresses,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Created   time.Time         `json:"created"`
	Expires   time.Time         `json:"expires,omitzero"`
}

func (c *control) handle(ctx context.Context, topic string, payload []byte) reply {
	var o order
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil {
		return reply{Error: "a JSON object with a command is wanted: " + err.Error()}
	}
	r := reply{Command: o.Command, Correlation: o.Correlation}
	var err error
	switch topic {
	case devicesTopic:
		err = c.device(&o, &r)
	case bansTopic:
		err = c.ban(&o, &r)
	case deadTopic:
		err = c.dead(ctx, &o, &r)
	default:
		err = c.cache(&o)
	}
	if err != nil {
		r.Error = err.Error()
		return r
	}
	if o.Command != "list" && o.Command != "show" {
		c.log.Info("an administrator's order is carried out", "topic", topic, "command", o.Command, "device", o.Name, "ban", o.Ban, "bridge", o.Bridge)
	}
	return r
}

var errCommand = errors.New("there is no such command here")

func (c *control) device(o *order, r *reply) (err error) {
	r.Name = o.Name
	switch o.Command {
	case "add":
		d, err := newDeviceOf(o.Name, o.ClientID, o.Expires, o.Addresses, o.Labels, c.now())
		if err != nil {
			return err
		}
		r.Secret, err = c.devices.Add(d)
		return err
	case "rotate":
		overlap := time.Duration(0)
		if o.Overlap != "" {
			if overlap, err = span(o.Overlap); err != nil {
				return fmt.Errorf("overlap: %w", err)
			}
		}
		r.Secret, err = c.devices.Rotate(o.Name, overlap)
		return err
	case "enable":
		return c.devices.Enable(o.Name)
	case "disable":
		return c.devices.Disable(o.Name)
	case "remove":
		return c.devices.Remove(o.Name)
	case "list", "show":
		all, err := c.devices.List()
		for i := range all {
			if d := &all[i]; o.Command == "list" || d.Name == o.Name {
				r.Devices = append(r.Devices, deviceLine{d.Name, deviceState(d), d.ClientID, prefixes(d.Addresses), d.Labels, d.Created, d.Expires})
			}
		}
		if err == nil && o.Command == "show" && len(r.Devices) == 0 {
			err = fmt.Errorf("%s: %w", o.Name, device.ErrNotFound)
		}
		return err
	}
	return errCommand
}

func (c *control) ban(o *order, r *reply) (err error) {
	if o.Command == "list" {
		r.Bans, err = c.bans.All()
		return err
	}
	if !slices.Contains([]string{"add", "remove"}, o.Command) {
		return errCommand
	}
	b, err := ban.Parse(o.Ban)
	if err != nil {
		return err
	}
	if o.Command == "remove" {
		return c.bans.Remove(b)
	}
	b.Reason = o.Reason
	if b.Until, err = ending(o.Until, c.now()); err != nil {
		return fmt.Errorf("until: %w", err)
	}
	return c.bans.Add(b)
}

// dead shows what the cloud of a bridge can never take, gives it back, or throws it away.
func (c *control) dead(ctx context.Context, o *order, r *reply) (err error) {
	switch o.Command {
	case "list":
		r.Dead, err = c.letters.list(o.Bridge, o.After)
	case "replay", "discard":
		var done cleared
		done, err = c.letters.clear(ctx, o.Bridge, letterBatch, o.Command == "replay")
		r.cleared = &done
	default:
		err = errCommand
	}
	return err
}

// cache lets what an HTTP service has said of a client be forgotten: by its identifier, its user
// name, or both; without them, of all clients.
func (c *control) cache(o *order) error {
	if o.Command != "purge" {
		return errCommand
	}
	return c.purge(service.Purge{Client: o.Client, User: o.User})
}
