package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"gateway/broker/auth/passwd"
)

// A passwdUser is what "gateway passwd" was asked to do.
type passwdUser struct {
	file, name, password          string
	create, batch, remove, update bool
	hash                          string
	iterations                    int
}

func newPasswd() *cobra.Command {
	u := &passwdUser{}
	cmd := &cobra.Command{
		Use:   "passwd FILE [USER] [PASSWORD]",
		Short: "Add, change or remove a user of a password file, as mosquitto_passwd does",
		Long: "Add, change or remove a user of a password file, as mosquitto_passwd does.\n\n" +
			"The file, auth.password_file of the configuration, has hashes of the passwords, and is one of Mosquitto too;\n" +
			"a gateway that runs takes the change at once. The password is asked for, or read from standard input.",
		Example: "  gateway passwd -c /etc/gateway/passwd anna     # makes the file, or a new one in its place\n" +
			"  gateway passwd /etc/gateway/passwd ben         # adds a user, or changes the password\n" +
			"  gateway passwd -D /etc/gateway/passwd ben\n" +
			"  gateway passwd -U /etc/gateway/passwd          # hashes plain passwords",
		Args: func(_ *cobra.Command, args []string) error { return u.arguments(args) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			return u.run(cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&u.create, "create", "c", false, "make a new file, in the place of one that is there")
	flags.BoolVarP(&u.batch, "batch", "b", false, "the password is the third argument, where others on the machine may see it")
	flags.BoolVarP(&u.remove, "delete", "D", false, "remove the user")
	flags.BoolVarP(&u.update, "update", "U", false, "put hashes in the place of plain passwords")
	flags.StringVarP(&u.hash, "hash", "H", string(passwd.PBKDF2), "how it is hashed: sha512-pbkdf2, argon2id, or sha512 for Mosquitto before 2.0")
	flags.IntVarP(&u.iterations, "iterations", "I", passwd.DefaultIterations, "of sha512-pbkdf2")
	return cmd
}

func (u *passwdUser) arguments(args []string) error {
	chosen, want, what := 0, 2, "the file and the user"
	for _, flag := range []bool{u.create, u.remove, u.update} {
		if flag {
			chosen++
		}
	}
	switch {
	case chosen > 1, u.batch && (u.remove || u.update):
		return usageError{errors.New("only one of -c, -D and -U, and -b not with the last two")}
	case u.update:
		want, what = 1, "the file"
	case u.batch:
		want, what = 3, "the file, the user and the password"
	}
	if len(args) != want {
		return usageError{fmt.Errorf("want %s, not %d arguments", what, len(args))}
	}
	fields := []*string{&u.file, &u.name, &u.password}
	for i, a := range args {
		*fields[i] = a
	}
	return nil
}

func (u *passwdUser) run(in io.Reader, out, errs io.Writer) (err error) {
	kind := passwd.Kind(u.hash)
	switch {
	case u.remove:
		return passwd.Remove(u.file, u.name)
	case u.update:
		n, err := passwd.Update(u.file, kind, u.iterations)
		if err == nil {
			fmt.Fprintf(out, "%s: hashed %s\n", u.file, count(n, "password"))
		}
		return err
	case !u.batch:
		if u.password, err = askPassword(in, errs, "Password for "+u.name); err != nil {
			return err
		}
	}
	if u.create {
		return passwd.Create(u.file, u.name, []byte(u.password), kind, u.iterations)
	}
	return passwd.Set(u.file, u.name, []byte(u.password), kind, u.iterations)
}
