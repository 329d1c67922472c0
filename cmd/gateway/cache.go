package main

import (
	"errors"
	"path/filepath"

	"github.com/spf13/cobra"

	"gateway/broker/auth/service"
)

func newCache() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Forget what an HTTP service has said of clients",
		Args:  noArguments,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCachePurge(dataFlag(cmd)))
	return cmd
}

func newCachePurge(data *string) *cobra.Command {
	var p service.Purge
	var all bool
	cmd := &cobra.Command{
		Use:   "purge",
		Short: "Let the HTTP service be asked again",
		Long: "Let the HTTP service be asked again about clients: its answers are forgotten, and that it has accepted\n" +
			"them, so that they do not come in while it is away. Who is connected stays so.\n\n" +
			"It is done within a second, or at the next start of the gateway.",
		Example: "  gateway cache purge --client dev-7\n" +
			"  gateway cache purge --all",
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			if some := p != (service.Purge{}); some == all {
				return usageError{errors.New("want --client, --user or both, or --all")}
			}
			return service.OpenPurges(filepath.Join(*data, purgesFile)).Add(p)
		},
	}
	cmd.Flags().StringVar(&p.Client, "client", "", "clients with this identifier")
	cmd.Flags().StringVar(&p.User, "user", "", "clients with this user name")
	cmd.Flags().BoolVar(&all, "all", false, "all clients")
	return cmd
}
