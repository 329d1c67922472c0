package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"gateway/offline"
)

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
	data := ""
	cmd := &cobra.Command{
		Use:   "backup FILE TO",
		Short: "Copy a store as it is at one moment, and who may come in, also while its gateway runs",
		Long: "Copy a store as it is at one moment, also while its gateway runs and goes on. The copy is read in full\n" +
			"before it is called TO; a file that is there already is not replaced.\n\n" +
			"The registered devices, the bans, and the clients that an HTTP service has accepted, which are files in\n" +
			"the data folder, are copied beside it, as TO.devices.jsonl and so on. What the configuration names,\n" +
			"passwords, rules and certificates, is for you to copy with the configuration.",
		Example: "  gateway store backup /var/lib/gateway/store.db /mnt/usb/store-monday.db",
		Args:    twoFiles,
		RunE: func(_ *cobra.Command, args []string) error {
			remove, err := copyAdmitted(dataFolder(data, args[0]), args[1])
			if err == nil { // last: where the store is, all is
				err = offline.Save(args[1], func(w io.Writer) error { return ask(args[0], "backup", w) })
			}
			if errors.Is(err, errNotRunning) {
				err = offline.Copy(args[0], args[1])
			}
			if err != nil {
				remove()
			}
			return err
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "the data folder, gateway.data in the configuration (default: the folder of FILE)")
	return cmd
}

// dataFolder is the folder that a flag names, or else that of a store.
func dataFolder(flag, store string) string {
	if flag != "" {
		return flag
	}
	return filepath.Dir(store)
}

func newStoreRestore() *cobra.Command {
	data, only := "", false
	cmd := &cobra.Command{
		Use:   "restore BACKUP FILE",
		Short: "Put a backup in the place of a store, and who may come in",
		Long: "Put a backup in the place of a store that no gateway runs on. What was there stays beside it, with\n" +
			"'.replaced-' and the time behind its name. Messages that were delivered after the backup was made are\n" +
			"delivered again, those at QoS 2 too. Do not copy a backup into place: packet identifiers that clients\n" +
			"have used for others since would make them lose messages.\n\n" +
			"The devices, bans and accepted clients that are beside the backup come back with it: devices that were\n" +
			"removed or disabled since come back too, and bans that were made since are gone. A kind of which there\n" +
			"was none at the time of the backup has no file there, and stays as it is; so do all with --store-only.",
		Example: "  gateway store restore /mnt/usb/store-monday.db /var/lib/gateway/store.db",
		Args:    twoFiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			w := cmd.OutOrStdout()
			var others []pending
			if !only {
				var err error
				if others, err = readAdmitted(args[0], dataFolder(data, args[1])); err != nil {
					return err
				}
			}
			aside, err := offline.RestoreBackup(args[0], args[1])
			if err == nil && aside != "" {
				_, err = fmt.Fprintf(w, "%s: restored; what was there is now %s\n", args[1], aside)
			}
			for i := range others {
				if err == nil {
					err = others[i].restore(w)
				}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "the data folder, gateway.data in the configuration (default: the folder of FILE)")
	cmd.Flags().BoolVar(&only, "store-only", false, "leave devices, bans and accepted clients as they are")
	return cmd
}
