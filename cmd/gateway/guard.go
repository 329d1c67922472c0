package main

import (
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"gateway/board/guard"
	"gateway/board/linux"
)

// newGuard is the process that gateway run starts to keep the outputs safe when it dies. It is
// not for people.
func newGuard() *cobra.Command {
	return &cobra.Command{
		Use:    guard.Command + " FOLDER",
		Short:  "Hold outputs at their safe levels when the gateway has died",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			b, err := linux.New(log)
			if err != nil {
				return err
			}
			return guard.Watch(os.Stdin, os.Stdout, args[0], b, log)
		},
	}
}
