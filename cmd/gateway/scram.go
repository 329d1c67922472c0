package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"gateway/broker/auth/scram"
)

// A scramUser is what "gateway scram" was asked to do.
type scramUser struct {
	file, name, password          string
	remove, batch, generate, weak bool
	iterations                    int
	expires                       string
}

func newScram() *cobra.Command {
	u := &scramUser{}
	cmd := &cobra.Command{
		Use:   "scram FILE USER [PASSWORD]",
		Short: "Add, change or remove a user of the authentication methods SCRAM-SHA-256 and SCRAM-SHA-512",
		Long: "Add, change or remove a user of the authentication methods SCRAM-SHA-256 and SCRAM-SHA-512.\n\n" +
			"The file, auth.scram_file of the configuration, does not hold the password, and a gateway that runs takes\n" +
			"the change at once. The password is asked for, or read from standard input, unless it is made (-g).",
		Example: "  gateway scram -g /etc/gateway/scram pump-1     # makes a secret and shows it once\n" +
			"  gateway scram /etc/gateway/scram alice         # asks for the password\n" +
			"  gateway scram -D /etc/gateway/scram alice",
		Args: func(_ *cobra.Command, args []string) error { return u.arguments(args) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			return u.run(cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&u.remove, "delete", "D", false, "remove the user")
	flags.BoolVarP(&u.batch, "batch", "b", false, "the password is the third argument, where others on the machine may see it")
	flags.BoolVarP(&u.generate, "generate", "g", false, "make a secret of 256 bits, and show it")
	flags.BoolVar(&u.weak, "sha1", false, "for SCRAM-SHA-1 too, for clients that know no better one")
	flags.IntVar(&u.iterations, "iterations", scram.DefaultIterations, "how often a client has to hash the password; for one that is made it does not matter")
	flags.StringVar(&u.expires, "expires", "", "when the user ends: a time as 2027-01-31T12:00:00Z, or from now on as 720h")
	return cmd
}

func (u *scramUser) arguments(args []string) error {
	want := 2
	if u.batch {
		want = 3
	}
	switch {
	case len(args) != want:
		return usageError{fmt.Errorf("want %d arguments, the file, the user and with -b the password, not %d", want, len(args))}
	case u.batch && u.generate, u.remove && (u.batch || u.generate):
		return usageError{errors.New("only one of -D, -b and -g")}
	}
	u.file, u.name = args[0], args[1]
	if u.batch {
		u.password = args[2]
	}
	if err := scram.CheckName(u.name); err != nil {
		return usageError{err}
	}
	return nil
}

func (u *scramUser) run(in io.Reader, out, errs io.Writer) error {
	if u.remove {
		found, err := scram.Remove(u.file, u.name)
		if err == nil && !found {
			err = fmt.Errorf("%s has no user %q", u.file, u.name)
		}
		return err
	}
	expires, err := until(u.expires)
	if err != nil {
		return usageError{err}
	}
	switch {
	case u.generate:
		b := make([]byte, 32)
		_, _ = rand.Read(b) // never fails
		u.password = base64.RawURLEncoding.EncodeToString(b)
	case !u.batch:
		if u.password, err = askPassword(in, errs, "Password for "+u.name); err != nil {
			return err
		}
	}
	hashes := []scram.Hash{scram.SHA256, scram.SHA512}
	if u.weak {
		hashes = append(hashes, scram.SHA1)
	}
	var keys []scram.Keys
	for _, h := range hashes {
		k, err := scram.NewKeys(h, u.password, u.iterations)
		if err != nil {
			return usageError{err}
		}
		keys = append(keys, k)
	}
	if err := scram.Set(u.file, u.name, expires, keys...); err != nil {
		return err
	}
	if u.generate {
		fmt.Fprintln(out, u.password)
	}
	return nil
}

// until reads when something ends; empty: never.
func until(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return time.Now().Add(d), nil
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("--expires %q: want a time as 2027-01-31T12:00:00Z, or a duration as 720h", s)
	}
	return at, nil
}
