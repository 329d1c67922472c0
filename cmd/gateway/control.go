package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
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

// An order is what an administrator asks for. Each command has its own fields, and takes no others: one that
// was meant for something else would be left out in silence.
type order struct {
	Command     string `json:"command"`
	Correlation string `json:"correlation"` // comes back in the answer
}

// The orders about devices.
type (
	deviceOrder struct {
		order
		Name string `json:"name"`
	}
	deviceAdd struct {
		deviceOrder
		ClientID  string   `json:"client_id"`
		Expires   string   `json:"expires"` // as on the command line
		Addresses []string `json:"addresses"`
		Labels    []string `json:"labels"` // KEY=VALUE
	}
	deviceRotate struct {
		deviceOrder
		Overlap string `json:"overlap"`
	}
)

// The orders about bans.
type (
	banOrder struct {
		order
		Ban string `json:"ban"` // KIND:VALUE
	}
	banAdd struct {
		banOrder
		Reason string `json:"reason"`
		Until  string `json:"until"`
	}
)

// The orders about what an HTTP service has said, and about dead letters.
type (
	cachePurge struct {
		order
		Client string `json:"client"`
		User   string `json:"user"`
	}
	deadOrder struct {
		order
		Bridge string `json:"bridge"`
	}
	deadList struct {
		deadOrder
		After uint64 `json:"after"` // the position of a dead letter
	}
)

// parseOrder reads an order as its command wants it.
func parseOrder(payload []byte, o any) error {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields()
	if err := d.Decode(o); err != nil {
		return fmt.Errorf("a JSON object with what the command wants: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("one JSON object is wanted, with nothing after it")
	}
	return nil
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
	err := json.Unmarshal(payload, &o)
	if err == nil && o.Command == "" {
		err = parseOrder(payload, &o) // which tells of a key that is misspelt
	}
	if err != nil {
		return reply{Error: "a JSON object with a command is wanted: " + err.Error()}
	}
	r := reply{Command: o.Command, Correlation: o.Correlation}
	var about string // for the log
	switch topic {
	case devicesTopic:
		about, err = c.device(o.Command, payload, &r)
	case bansTopic:
		about, err = c.ban(o.Command, payload, &r)
	case deadTopic:
		about, err = c.dead(ctx, o.Command, payload, &r)
	default:
		about, err = c.cache(o.Command, payload)
	}
	if err != nil {
		r.Error = err.Error()
		return r
	}
	if o.Command != "list" && o.Command != "show" {
		c.log.Info("an administrator's order is carried out", "topic", topic, "command", o.Command, "about", about)
	}
	return r
}

var errCommand = errors.New("there is no such command here")

func (c *control) device(command string, payload []byte, r *reply) (about string, err error) {
	var o deviceOrder
	switch command {
	case "add":
		var add deviceAdd
		if err := parseOrder(payload, &add); err != nil {
			return "", err
		}
		r.Name = add.Name
		d, err := newDeviceOf(add.Name, add.ClientID, add.Expires, add.Addresses, add.Labels, c.now())
		if err != nil {
			return "", err
		}
		r.Secret, err = c.devices.Add(d)
		return add.Name, err
	case "rotate":
		var rotate deviceRotate
		if err := parseOrder(payload, &rotate); err != nil {
			return "", err
		}
		r.Name = rotate.Name
		overlap := time.Duration(0)
		if rotate.Overlap != "" {
			if overlap, err = span(rotate.Overlap); err != nil {
				return "", fmt.Errorf("overlap: %w", err)
			}
		}
		r.Secret, err = c.devices.Rotate(rotate.Name, overlap)
		return rotate.Name, err
	case "enable", "disable", "remove", "show":
		if err := parseOrder(payload, &o); err != nil {
			return "", err
		}
		r.Name = o.Name
	case "list":
		if err := parseOrder(payload, &o.order); err != nil {
			return "", err
		}
	default:
		return "", errCommand
	}
	switch command {
	case "enable":
		err = c.devices.Enable(o.Name)
	case "disable":
		err = c.devices.Disable(o.Name)
	case "remove":
		err = c.devices.Remove(o.Name)
	default:
		err = c.show(command == "list", o.Name, r)
	}
	return o.Name, err
}

// show answers with all devices, or with one.
func (c *control) show(list bool, name string, r *reply) error {
	all, err := c.devices.List()
	for i := range all {
		if d := &all[i]; list || d.Name == name {
			r.Devices = append(r.Devices, deviceLine{d.Name, deviceState(d), d.ClientID, prefixes(d.Addresses), d.Labels, d.Created, d.Expires})
		}
	}
	if err == nil && !list && len(r.Devices) == 0 {
		err = fmt.Errorf("%s: %w", name, device.ErrNotFound)
	}
	return err
}

func (c *control) ban(command string, payload []byte, r *reply) (about string, err error) {
	var o banAdd
	switch command {
	case "add":
		err = parseOrder(payload, &o)
	case "remove":
		err = parseOrder(payload, &o.banOrder)
	case "list":
		if err = parseOrder(payload, &o.order); err == nil {
			r.Bans, err = c.bans.All()
		}
		return "", err
	default:
		err = errCommand
	}
	if err != nil {
		return "", err
	}
	b, err := ban.Parse(o.Ban)
	if err != nil {
		return "", err
	}
	if command == "remove" {
		return o.Ban, c.bans.Remove(b)
	}
	b.Reason = o.Reason
	if b.Until, err = ending(o.Until, c.now()); err != nil {
		return "", fmt.Errorf("until: %w", err)
	}
	return o.Ban, c.bans.Add(b)
}

// dead shows what the cloud of a bridge can never take, gives it back, or throws it away.
func (c *control) dead(ctx context.Context, command string, payload []byte, r *reply) (about string, err error) {
	var o deadList
	switch command {
	case "list":
		if err := parseOrder(payload, &o); err != nil {
			return "", err
		}
		r.Dead, err = c.letters.list(o.Bridge, o.After)
	case "replay", "discard":
		if err := parseOrder(payload, &o.deadOrder); err != nil {
			return "", err
		}
		var done cleared
		done, err = c.letters.clear(ctx, o.Bridge, letterBatch, command == "replay")
		r.cleared = &done
	default:
		err = errCommand
	}
	return o.Bridge, err
}

// cache lets what an HTTP service has said of a client be forgotten: by its identifier, its user
// name, or both; without them, of all clients.
func (c *control) cache(command string, payload []byte) (about string, err error) {
	if command != "purge" {
		return "", errCommand
	}
	var o cachePurge
	if err := parseOrder(payload, &o); err != nil {
		return "", err
	}
	return o.Client + o.User, c.purge(service.Purge{Client: o.Client, User: o.User})
}
