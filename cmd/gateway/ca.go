package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"gateway/internal/ca"
)

// dayLength turns --days into a duration.
const dayLength = 24 * time.Hour

// maxDays is a hundred years.
const maxDays = 36500

func newCA() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Make certificates for devices, brokers and bridges",
		Long: "Make certificates for devices, brokers and bridges: first an authority, then what it signs.\n\n" +
			"The authority is a folder. Keep its ca.key off the network; give its ca.crt to everyone.",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	dir := cmd.PersistentFlags().String("dir", "ca", "folder of the authority")
	cmd.AddCommand(newCAInit(dir), newCAServer(dir), newCAClient(dir), newCAList(dir), newCARenew(dir), newCARevoke(dir))
	return cmd
}

func newCAInit(dir *string) *cobra.Command {
	var name string
	var days int
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the authority",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			life, err := life(days)
			if err != nil {
				return err
			}
			a, err := ca.Init(*dir, name, life)
			if err != nil {
				return err
			}
			f := a.Files()
			out := cmd.OutOrStdout()
			wrote(out, f)
			fmt.Fprintf(out, "Give %s to whoever has to trust your certificates. Keep %s to yourself: it can make more.\n"+
				"Next:\n  gateway ca%s server NAME…   for a broker, with the host names and addresses it is reached by\n"+
				"  gateway ca%[3]s client NAME    for a device or a bridge\n", f.Cert, f.Key, dirFlag(*dir))
			return nil
		},
	}
	cmd.Flags().StringVar(&name, "name", "Gateway CA", "common name of the authority")
	cmd.Flags().IntVar(&days, "days", int(ca.AuthorityLife/dayLength), "how long it is in force")
	return cmd
}

func newCAServer(dir *string) *cobra.Command {
	var days int
	cmd := &cobra.Command{
		Use:     "server NAME…",
		Short:   "Make the certificate of a broker that is reached by these host names and IP addresses",
		Example: "  gateway ca server greenhouse.local 192.168.1.20",
		Args:    atLeastOneName,
		RunE: func(cmd *cobra.Command, names []string) error {
			f, authority, err := issue(*dir, days, func(a *ca.Authority, life time.Duration) (ca.Files, error) {
				return a.Server(names, life)
			})
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			wrote(out, f)
			fmt.Fprintf(out, "For a listener of the gateway, in its file:\n"+
				"    tls: {cert: %[1]s, key: %[2]s, client_ca: %[3]s, require_certificate: true}\n"+
				"For mosquitto, in its file:\n"+
				"    certfile %[1]s\n    keyfile %[2]s\n    cafile %[3]s\n    require_certificate true\n    use_identity_as_username true\n"+
				"The key must be readable by the user that the broker runs as, and by nobody else.\n", f.Cert, f.Key, authority)
			return nil
		},
	}
	cmd.Flags().IntVar(&days, "days", int(ca.LeafLife/dayLength), "how long it is in force, at most as long as the authority")
	return cmd
}

func newCAClient(dir *string) *cobra.Command {
	var days int
	cmd := &cobra.Command{
		Use:     "client NAME",
		Short:   "Make the certificate of a device or a bridge; NAME becomes its user name",
		Example: "  gateway ca client thermometer-3",
		Args:    oneName,
		RunE: func(cmd *cobra.Command, names []string) error {
			f, authority, err := issue(*dir, days, func(a *ca.Authority, life time.Duration) (ca.Files, error) {
				return a.Client(names[0], life)
			})
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			wrote(out, f)
			fmt.Fprintf(out, "For a bridge of the gateway, in its file:\n"+
				"    tls: {ca: %[3]s, cert: %[1]s, key: %[2]s}\n"+
				"To try it:\n"+
				"    gateway sub -h HOST -p 8883 --cafile %[3]s --cert %[1]s --key %[2]s '#'\n", f.Cert, f.Key, authority)
			return nil
		},
	}
	cmd.Flags().IntVar(&days, "days", int(ca.LeafLife/dayLength), "how long it is in force, at most as long as the authority")
	return cmd
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s does not know %q; see: %[1]s --help", cmd.CommandPath(), args[0])}
	}
	return nil
}

func atLeastOneName(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usageError{errors.New("want the host names or IP addresses by which the broker is reached")}
	}
	return nil
}

func oneName(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{fmt.Errorf("want the name of one client, not %d arguments", len(args))}
	}
	return nil
}

// issue opens the authority in dir and lets it sign; the files come back with absolute paths.
func issue(dir string, days int, sign func(*ca.Authority, time.Duration) (ca.Files, error)) (f ca.Files, authority string, err error) {
	life, err := life(days)
	if err != nil {
		return f, "", err
	}
	// What is printed is copied into files that are read from other folders.
	dir, err = filepath.Abs(dir)
	if err != nil {
		return f, "", err
	}
	a, err := ca.Open(dir)
	if err != nil {
		return f, "", err
	}
	f, err = sign(a, life)
	return f, a.Files().Cert, err
}

func life(days int) (time.Duration, error) {
	if days < 1 || days > maxDays {
		return 0, usageError{fmt.Errorf("--days: from 1 to %d, not %d", maxDays, days)}
	}
	return time.Duration(days) * dayLength, nil
}

func wrote(out io.Writer, f ca.Files) {
	fmt.Fprintf(out, "Wrote %s and %s, in force until %s.\n", f.Cert, f.Key, f.NotAfter.Format(time.DateOnly))
}

// dirFlag repeats --dir in the commands that are printed.
func dirFlag(dir string) string {
	if dir == "ca" {
		return ""
	}
	return " --dir " + dir
}
