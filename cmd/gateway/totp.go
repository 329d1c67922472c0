package main

import (
	"fmt"
	"net/url"

	"github.com/spf13/cobra"

	"gateway/broker/auth/roster"
	"gateway/broker/auth/totp"
)

func newTOTP() *cobra.Command {
	var remove bool
	cmd := &cobra.Command{
		Use:   "totp FILE USER",
		Short: "Give a user one-time codes as a second factor, for the authentication method PASSWORD-TOTP",
		Long: "Give a user one-time codes as a second factor, for the authentication method PASSWORD-TOTP.\n\n" +
			"A new secret takes the place of the one that the user may have in the file, auth.totp_file of the\n" +
			"configuration. It is shown once, for a program that shows the codes. A gateway that runs takes the change at once.",
		Example: "  gateway totp /etc/gateway/totp alice\n" +
			"  gateway totp -D /etc/gateway/totp alice",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usageError{fmt.Errorf("want 2 arguments, the file and the user, not %d", len(args))}
			}
			if err := roster.CheckName(args[1]); err != nil {
				return usageError{err}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			file, name := args[0], args[1]
			if remove {
				found, err := totp.Remove(file, name)
				if err == nil && !found {
					err = fmt.Errorf("%s has no user %q", file, name)
				}
				return err
			}
			secret := totp.NewSecret()
			if err := totp.Set(file, name, secret); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s\notpauth://totp/gateway:%s?secret=%s&issuer=gateway\n", secret, url.PathEscape(name), secret)
			return nil
		},
	}
	cmd.Flags().BoolVarP(&remove, "delete", "D", false, "remove the user's secret")
	return cmd
}
