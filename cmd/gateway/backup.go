package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"gateway/offline"
)

func newStoreStat() *cobra.Command {
	return &cobra.Command{
		Use:   "stat FILE",
		Short: "Print the figures of a store, also while its gateway runs",
		Long: "Print the figures of a store. If a gateway runs on it, these are its own, as JSON; if none does, the\n" +
			"file is read as by 'gateway store check', which takes longer.",
		Example: "  gateway store stat /var/lib/gateway/store.db",
		Args:    oneStore,
		RunE: func(cmd *cobra.Command, args []string) error {
			w := cmd.OutOrStdout()
			err := ask(args[0], "stat", w)
			if err == nil {
				_, err = fmt.Fprintln(w)
				return err
			}
			if !errors.Is(err, errNotRunning) {
				return err
			}
			r, err := offline.Check(args[0])
			if err != nil {
				return err
			}
			return printReport(w, args[0], r)
		},
	}
}

func newStoreCompact() *cobra.Command {
	return &cobra.Command{
		Use:   "compact FILE",
		Short: "Make the file of a store as small as what is in it",
		Long: "Make the file of a store as small as what is in it. No gateway may run on it: a running one makes its\n" +
			"file smaller by itself when most of it is free.",
		Example: "  gateway store compact /var/lib/gateway/store.db",
		Args:    oneStore,
		RunE: func(cmd *cobra.Command, args []string) error {
			before, after, err := offline.Compact(args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d bytes before, %d now\n", args[0], before, after)
			return err
		},
	}
}

// twoFiles wants two arguments.
func twoFiles(_ *cobra.Command, args []string) error {
	if len(args) != 2 {
		return usageError{fmt.Errorf("want two files, from and to, not %d arguments", len(args))}
	}
	return nil
}

func newStoreBackup() *cobra.Command {
	return &cobra.Command{
		Use:   "backup FILE TO",
		Short: "Copy a store as it is at one moment, also while its gateway runs",
		Long: "Copy a store as it is at one moment, also while its gateway runs and goes on. The copy is read in full\n" +
			"before it is called TO; a file that is there already is not replaced.",
		Example: "  gateway store backup /var/lib/gateway/store.db /mnt/usb/store-monday.db",
		Args:    twoFiles,
		RunE: func(_ *cobra.Command, args []string) error {
			err := offline.Save(args[1], func(w io.Writer) error { return ask(args[0], "backup", w) })
			if errors.Is(err, errNotRunning) {
				return offline.Copy(args[0], args[1])
			}
			return err
		},
	}
}

func newStoreRestore() *cobra.Command {
	return &cobra.Command{
		Use:   "restore BACKUP FILE",
		Short: "Put a backup in the place of a store",
		Long: "Put a backup in the place of a store that no gateway runs on. What was there stays beside it, with\n" +
			"'.replaced-' and the time behind its name. Messages that were delivered after the backup was made are\n" +
			"delivered again, those at QoS 2 too.",
		Example: "  gateway store restore /mnt/usb/store-monday.db /var/lib/gateway/store.db",
		Args:    twoFiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			aside, err := offline.RestoreBackup(args[0], args[1])
			if err == nil && aside != "" {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: restored; what was there is now %s\n", args[1], aside)
			}
			return err
		},
	}
}
