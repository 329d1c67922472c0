package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"

	"gateway/broker/packet"
	"gateway/internal/client"
)

func newHealth() *cobra.Command {
	f := &connection{}
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask whether a broker answers",
		Long: "Connect, wait for CONNACK, disconnect. The exit code is 0 if the broker answers in time, else 1.\n\n" +
			"A broker that lets this client not in is healthy: it has answered.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
			defer stop()
			return health(ctx, f, cmd.OutOrStdout())
		},
	}
	f.register(cmd)
	return cmd
}

func health(ctx context.Context, f *connection, out io.Writer) error {
	start := time.Now()
	c, err := f.dial(ctx, client.Options{})
	var refusal *client.Error
	if errors.As(err, &refusal) && notLetIn(refusal.Reason) {
		_, err = fmt.Fprintf(out, "healthy: answers in %v (%v)\n", time.Since(start).Round(time.Millisecond/10), refusal.Reason)
		return err
	}
	if err != nil {
		return err
	}
	took := time.Since(start)
	defer c.Close()
	ending, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	if err := c.Disconnect(ending); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "healthy: answers in %v\n", took.Round(time.Millisecond/10))
	return err
}

// notLetIn reports whether a refusal is about the client and not about the broker.
func notLetIn(r packet.ReasonCode) bool {
	switch r {
	case packet.NotAuthorized, packet.BadUserNameOrPassword, packet.ClientIDNotValid, packet.Banned:
		return true
	}
	return false
}
