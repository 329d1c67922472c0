package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"gateway/internal/ca"
)

func newCAList(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List what the authority has made, and what of it expires soon",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := ca.Open(*dir)
			if err != nil {
				return err
			}
			entries, err := a.List()
			if err != nil {
				return err
			}
			out := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(out, "NAME\tFOR\tSERIAL\tUNTIL\tSTATE")
			for _, e := range entries {
				fmt.Fprintf(out, "%s\t%s\t%s\t%s\t%s\n", e.Name, e.Subject(), e.Serial(), e.Cert.NotAfter.Format(time.DateOnly), stateOf(&e, time.Now()))
			}
			return out.Flush()
		},
	}
}

// soon is how long before its end a certificate should be renewed.
const soon = 30 * dayLength

// stateOf says in what state a certificate is.
func stateOf(e *ca.Entry, now time.Time) string {
	left := e.Cert.NotAfter.Sub(now)
	switch {
	case !e.Revoked.IsZero():
		return "revoked on " + e.Revoked.Format(time.DateOnly)
	case left <= 0:
		return "expired"
	case left <= soon:
		return "expires in " + count(int(left/dayLength), "day")
	}
	return "in force"
}

func newCARenew(dir *string) *cobra.Command {
	var days int
	cmd := &cobra.Command{
		Use:     "renew NAME",
		Short:   "Make a new certificate and key in the place of those of a broker or client",
		Long:    "Make a new certificate and key in the place of those of a broker or client.\n\nThe old ones stay in the folder, and in force until they expire or are revoked.",
		Example: "  gateway ca renew thermometer-3",
		Args:    oneName,
		RunE: func(cmd *cobra.Command, names []string) error {
			life, err := life(days)
			if err != nil {
				return err
			}
			abs, err := filepath.Abs(*dir)
			if err != nil {
				return err
			}
			a, err := ca.Open(abs)
			if err != nil {
				return err
			}
			f, before, err := a.Renew(names[0], life)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			wrote(out, f)
			fmt.Fprintf(out, "The old certificate is %s, in force until %s. When nobody uses it any more:\n  gateway ca%s revoke %s\n",
				before.Cert, before.NotAfter.Format(time.DateOnly), dirFlag(*dir), before.Cert)
			return nil
		},
	}
	cmd.Flags().IntVar(&days, "days", int(ca.LeafLife/dayLength), "how long it is in force, at most as long as the authority")
	return cmd
}

func newCARevoke(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME…",
		Short: "Put certificates on the list of those that are not to be let in any more",
		Long: "Put certificates on the list of those that are not to be let in any more, by their names or files.\n\n" +
			"A name means every certificate that was made for it, those of before a renewal too; a file means one.\n\n" +
			"The list is ca.crl in the folder of the authority. Copy it to the listeners' tls.crl: a gateway that runs\n" +
			"takes it within a second, and disconnects whose certificate is on it.",
		Example: "  gateway ca revoke thermometer-3",
		Args: func(_ *cobra.Command, names []string) error {
			if len(names) == 0 {
				return usageError{errors.New("want the names of certificates, or their files")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, names []string) error {
			abs, err := filepath.Abs(*dir)
			if err != nil {
				return err
			}
			a, err := ca.Open(abs)
			if err != nil {
				return err
			}
			entries, err := a.Revoke(names...)
			if err != nil {
				return err
			}
			for _, e := range entries {
				fmt.Fprintf(cmd.OutOrStdout(), "Revoked %s, %s, serial number %s, which was in force until %s.\n", e.Name, e.Subject(), e.Serial(), e.Cert.NotAfter.Format(time.DateOnly))
			}
			revoked(cmd.OutOrStdout(), a)
			return nil
		},
	}
}

func revoked(out io.Writer, a *ca.Authority) {
	fmt.Fprintf(out, "Wrote %s. For a listener of the gateway, in its file, under tls:\n    crl: %[1]s\nFor mosquitto, in its file:\n    crlfile %[1]s\n", a.Revocations())
}
