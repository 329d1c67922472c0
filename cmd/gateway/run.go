package main

import (
	"context"
	"errors"
	"log/slog"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"gateway/board/clock"
	"gateway/broker"
	"gateway/broker/packet"
	"gateway/config"
	"gateway/offline"
)

func newRun() *cobra.Command {
	var live bool
	cmd := &cobra.Command{
		Use:   "run FILE",
		Short: "Run the gateway that a configuration file describes",
		Example: "  gateway run /etc/gateway/gateway.yaml\n" +
			"  gateway run --live docs/examples/sim.yaml",
		Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := config.Load(args[0])
			if err != nil {
				return configError{err}
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			if !live {
				log := newLog(cmd.ErrOrStderr(), c.Gateway.Log)
				return run(ctx, c, log, nil)
			}
			s := newScreen(cmd.OutOrStdout(), c)
			return run(ctx, c, newLog(s, c.Gateway.Log), s.show)
		},
	}
	cmd.Flags().BoolVar(&live, "live", false, "show the points in the terminal")
	return cmd
}

// run starts the gateway, lets with, if any, do its work beside it, and stops it when ctx ends.
func run(ctx context.Context, c *config.Config, log *slog.Logger, with func(context.Context, *broker.Server) error) error {
	for _, w := range c.Warnings {
		log.Warn(w.Text, "where", w.Where())
	}
	now, known := clock.New(built()).Date(time.Now())
	if !known {
		now = time.Time{}
	}
	for _, p := range c.CheckFiles(now) {
		log.Error(p.Text, "where", p.Where())
	}
	var o offline.Options
	patience := time.Duration(0)
	for {
		began := time.Now()
		damage, err := runOnce(ctx, c, log, with, o, began.Add(patience))
		if damage == nil {
			return err
		}
		log.Error("the store was damaged while the gateway ran: the gateway begins anew, and saves what can be read", "damage", damage, "error", err)
		// A start reads the store in full. One that is soon found damaged again is not trusted any more, and
		// if what was saved of it is damaged as soon, that is not either.
		if again := patience > 0 && time.Since(began) < suspicion; again {
			o.Suspect, o.Discard = damage, o.Suspect != nil
		} else {
			o.Suspect, o.Discard = nil, false
		}
		patience = renewal
	}
}

const (
	renewal   = 10 * time.Minute // between two times that the gateway begins anew, at least
	suspicion = time.Hour
)

// runOnce runs the gateway until ctx ends, or until its store is found damaged, but not before a time.
// In the second case it returns the damage, and the next start goes on with what can be read.
func runOnce(ctx context.Context, c *config.Config, log *slog.Logger, with func(context.Context, *broker.Server) error,
	o offline.Options, notBefore time.Time) (damage, err error) {
	g, err := start(c, log, o)
	if err != nil {
		return nil, err
	}
	log.Info("gateway is running", "version", version, "id", c.Gateway.ID)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan error, 1)
	go func() { watched <- beat(ctx, g.server) }()
	spared := make(chan struct{})
	go func() {
		defer close(spared)
		thrift{span: time.Second, share: 50}.run(ctx)
	}()
	shown := make(chan error, 1)
	go func() {
		if with != nil {
			shown <- with(ctx, g.server)
			cancel()
			return
		}
		shown <- nil
	}()
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	if damage = g.vault.awaitDamage(ctx, notBefore); damage == nil {
		_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	}
	log.Info("gateway is stopping: outputs go to their safe states")
	cancel()
	err = errors.Join(<-watched, <-shown, g.stop())
	<-spared
	if err == nil {
		log.Info("gateway has stopped")
	}
	return damage, err
}

// beat tells systemd's watchdog that the gateway lives, for as long as messages make their way
// through the broker.
func beat(ctx context.Context, server *broker.Server) error {
	period, err := daemon.SdWatchdogEnabled(false)
	if err != nil || period == 0 {
		return err
	}
	c, err := server.Connect(broker.ClientOptions{ID: "$watchdog", CleanStart: true})
	if err != nil {
		return err
	}
	defer c.Close()
	const beat = "$SYS/broker/heartbeat"
	if _, err := c.Subscribe(packet.Subscribe{Filters: []packet.Subscription{{Filter: beat}}}); err != nil {
		return err
	}
	tick := time.NewTicker(period / 3)
	defer tick.Stop()
	for {
		c.Publish(packet.Publish{Topic: beat}, nil)
		if _, _, err := c.Next(ctx); err != nil {
			return nil // the gateway stops
		}
		_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
