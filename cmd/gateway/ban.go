package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gateway/broker/auth/ban"
)

func newBan() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ban",
		Short: "Keep clients out, whatever they show",
		Long: "Keep clients out, whatever they show: by KIND:VALUE, which is\n" +
			"  client:ID          a client identifier\n" +
			"  pattern:TEXT       client identifiers, * stands for any text\n" +
			"  user:NAME          a user name\n" +
			"  address:ADDRESS    an IP address or a range, as 192.0.2.0/24; never this machine itself\n" +
			"  serial:HEX         the serial number of a client certificate\n\n" +
			"A change is in force within a second, whether the gateway runs or not. Who is banned is disconnected.",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	data := dataFlag(cmd)
	list := func() *ban.List { return ban.Open(filepath.Join(*data, bansFile), time.Now) }
	cmd.AddCommand(newBanAdd(list), newBanList(list), newBanRemove(list))
	return cmd
}

func newBanAdd(list func() *ban.List) *cobra.Command {
	var reason, end string
	cmd := &cobra.Command{
		Use:     "add KIND:VALUE",
		Short:   "Ban",
		Example: "  gateway ban add address:203.0.113.0/24 --reason 'guesses passwords' --until 7d",
		Args:    oneBan,
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := ban.Parse(args[0])
			if err != nil {
				return usageError{err}
			}
			b.Reason = reason
			if b.Until, err = ending(end, time.Now()); err != nil {
				return usageError{fmt.Errorf("--until %w", err)}
			}
			return list().Add(b)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "for the log and the list")
	cmd.Flags().StringVar(&end, "until", "", "when it ends: a time as 90d or 12h, or a day as 2027-06-30; without it, never")
	return cmd
}

func newBanList(list func() *ban.List) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the bans that are in force",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := list().All()
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "BAN\tSINCE\tUNTIL\tREASON")
			for _, b := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", &b, day(b.Since), day(b.Until), b.Reason)
			}
			return w.Flush()
		},
	}
}

func newBanRemove(list func() *ban.List) *cobra.Command {
	return &cobra.Command{
		Use:   "remove KIND:VALUE",
		Short: "Lift a ban",
		Args:  oneBan,
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := ban.Parse(args[0])
			if err != nil {
				return usageError{err}
			}
			return list().Remove(b)
		},
	}
}

// oneBan wants KIND:VALUE as the only argument.
func oneBan(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{errors.New("want one KIND:VALUE, as in client:dev-7 or address:192.0.2.0/24")}
	}
	return nil
}
