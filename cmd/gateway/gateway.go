package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync"

	"gateway/board"
	"gateway/board/clock"
	"gateway/board/guard"
	"gateway/board/linux"
	"gateway/board/sim"
	"gateway/broker"
	"gateway/config"
	"gateway/offline"
)

// A gateway is everything that runs. Its parts are started in the order of the fields and end in
// the reverse order, so that each can use what came before it for as long as it lives.
type gateway struct {
	log    *slog.Logger
	clock  *clock.Clock
	board  board.Board
	points *points      // their outputs are safe before anything else is done
	guard  *guard.Guard // nil on a simulated board
	vault  *vault
	guests *guestbook
	server *broker.Server

	stopWatching  context.CancelFunc
	watching      sync.WaitGroup // of the store
	stopUplinks   context.CancelFunc
	uplinks       sync.WaitGroup
	methods       *methods
	access        *access
	stopListening context.CancelFunc
	listening     sync.WaitGroup
	stopClock     context.CancelFunc
	timing        sync.WaitGroup
}

// start starts a gateway. What can be mended while it runs, a missing device or an address in
// use, is no error: it is logged, and tried again. Options of the store that are not in the
// configuration are given.
func start(c *config.Config, log *slog.Logger, o offline.Options) (g *gateway, err error) {
	if err := os.MkdirAll(c.Gateway.Data, 0o700); err != nil {
		log.Error("the data folder cannot be made: nothing will be kept", "error", err, "remedy", "make it, or set gateway.data to one that can be written")
	}
	g = &gateway{log: log, clock: clock.New(built()), stopListening: func() {}, stopUplinks: func() {}, stopClock: func() {}, stopWatching: func() {}}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.stop())
		}
	}()
	if err := g.takeOutputs(c); err != nil {
		return g, err
	}
	g.guests = newGuestbook(c, g.clock, log)
	if g.access, err = openAccess(c); err != nil {
		log.Error("a file of users or rules cannot be used: nobody is let in, or may do anything, by it", "error", err,
			"remedy", "mend the file: it is looked at again when it changes")
	}
	for _, text := range g.access.wide() {
		log.Warn(text)
	}
	if err := g.openStore(c, o); err != nil {
		return g, err
	}
	var watching context.Context
	watching, g.stopWatching = context.WithCancel(context.Background())
	dead := newLetters(c, g)
	g.guests.control.letters = dead
	g.watching.Go(func() { g.vault.serve(watching, dead, log) })
	g.watching.Go(func() {
		g.vault.watch(watching, g.server, &wear{budget: c.Store.WriteBudget, endurance: c.Store.CardEndurance, log: log}, log)
	})
	g.watching.Go(func() { tellExpiries(watching, c, g.server, g.clock.Now, log) })
	var timing context.Context
	timing, g.stopClock = context.WithCancel(context.Background())
	g.timing.Go(func() { g.awaitClock(timing) })
	g.guests.run(g.server)
	// The queues of the bridges come before all that is published, and the bridges themselves
	// after all that takes commands.
	begin := make(chan struct{})
	if err := g.bridge(c, begin); err != nil {
		return g, err
	}
	if err := g.points.run(g.server, log); err != nil {
		return g, err
	}
	g.methods = openMethods(c, g.clock.Now, log)
	g.listen(c.Listeners, c.Limits.PacketSize)
	close(begin)
	return g, nil
}

// takeOutputs makes the outputs safe, and puts a guard on them.
func (g *gateway) takeOutputs(c *config.Config) (err error) {
	simulated := c.Board == "sim"
	if simulated {
		g.board = sim.New(sim.Options{Speed: c.Sim.Speed})
	} else {
		if err := guard.TakeOver(c.Gateway.Data); err != nil {
			g.log.Error("the guard of an earlier run keeps its outputs", "error", err)
		}
		if g.board, err = linux.New(g.log); err != nil {
			return err
		}
	}
	if g.points, err = newPoints(c, g.board, g.clock.Date, g.log); err != nil {
		return err
	}
	if err := g.points.makeSafe(); err != nil {
		g.log.Error("not every output is safe yet: it will be tried again", "error", err)
	}
	if simulated || len(c.Outputs) == 0 {
		return nil
	}
	exe, err := os.Executable()
	if err == nil {
		g.guard, err = guard.Start(exe, c.Gateway.Data, outputLines(c), g.log)
	}
	if err != nil {
		g.log.Error("no guard: outputs will not be made safe if the gateway is killed", "error", err)
	}
	return nil
}

// openStore opens the store and starts the broker on it. Without a store there is local control
// and QoS 0; what must be durable is refused.
func (g *gateway) openStore(c *config.Config, durable offline.Options) error {
	durable.Log, durable.Clock = g.log, g.clock
	durable.TelemetryCommit, durable.CommitDelay, durable.MaxBytes = c.Store.TelemetryCommit, c.Store.CommitDelay, c.Store.MaxSize
	g.vault = newVault(c.StorePath(), durable)
	_, absent := g.vault.get()
	most := limits(c.Limits)
	most.Stored = sessionQuota(c.Store)
	o := broker.Options{
		Store: g.vault, Absent: absent, Limits: most, Log: g.log, Version: "gateway " + version,
		UseAnother: c.Gateway.UseAnotherServer, Door: g.guests.door, Queues: bridgeRooms(c),
		Early: c.Store.CommitDelay > 0, ShareBySender: c.Gateway.SharedSubscriptions == "sender",
		Commands: commandTopics(c), Now: g.clock.Now,
		Recall: memory{c.Listeners, g.access, g.guests}.recall,
	}
	var err error
	if g.server, err = broker.New(o); err != nil && o.Absent == nil { // what is in the store cannot be read
		g.log.Error("QoS 1 and 2 is refused until the store can be read, everything else goes on", "error", err)
		o.Absent = err
		g.server, err = broker.New(o)
	}
	return err
}

func limits(l config.Limits) broker.Limits {
	return broker.Limits{
		Connections:        l.Connections,
		AddressConnections: l.AddressConnections,
		Handshakes:         l.Handshakes,
		ConnectRate:        l.ConnectRate,
		MessageRate:        l.MessageRate,
		ByteRate:           int(l.ByteRate),
		RequestRate:        l.RequestRate,
		Sessions:           l.Sessions,
		TopicAliases:       uint16(l.TopicAliases),
		AliasBytes:         int(l.TopicAliasesSize),
		PacketSize:         int(l.PacketSize),
		ReceiveMaximum:     uint16(l.ReceiveMaximum),
		Inflight:           uint16(l.Inflight),
		Subscriptions:      l.Subscriptions,
		SubscriptionBytes:  int(l.SubscriptionsSize),
		TopicBytes:         int(l.TopicSize),
		TopicLevels:        l.TopicLevels,
		ClientIDBytes:      int(l.ClientIDSize),
		WillBytes:          int(l.WillSize),
		Memory:             int(min(l.Memory, math.MaxInt)),
		QueueMessages:      l.Queue,
		QueueBytes:         int(l.QueueSize),
		RetainedBytes:      int(l.RetainedSize),
		OutBytes:           int(l.OutputSize),
		SessionExpiry:      l.SessionExpiry,
		ConnectTime:        l.ConnectTimeout,
		AuthTime:           l.AuthTimeout,
		AuthRounds:         l.AuthRounds,
		AuthBytes:          int(l.AuthDataSize),
		WriteTime:          l.WriteTimeout,
		KeepAlive:          l.KeepAlive,
	}
}

// stop ends what was started. Outputs are made safe while the broker still tells of it.
func (g *gateway) stop() error {
	var errs []error
	g.stopUplinks()
	g.stopClock()
	g.timing.Wait()
	if g.points != nil {
		errs = append(errs, g.points.stop())
	}
	g.uplinks.Wait()
	g.stopWatching()
	g.stopListening()
	if g.guests != nil {
		g.guests.end()
	}
	if g.server != nil {
		errs = append(errs, g.server.Close())
	}
	g.listening.Wait()
	if g.guests != nil {
		errs = append(errs, g.guests.close())
	}
	g.watching.Wait()
	if g.vault != nil {
		errs = append(errs, g.vault.close())
	}
	if g.points != nil {
		errs = append(errs, g.points.release())
	}
	if g.guard != nil {
		errs = append(errs, g.guard.Release())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}
