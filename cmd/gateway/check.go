package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gateway/broker/auth/acl"
	"gateway/broker/auth/passwd"
	"gateway/broker/auth/scram"
	"gateway/broker/auth/totp"
	"gateway/config"
)

func newCheck() *cobra.Command {
	var noFiles bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Say everything that is wrong with a configuration file",
		Long: "Say everything that is wrong with a configuration file, one problem a line, and do nothing else.\n\n" +
			"The certificates, keys and secrets that the file refers to are looked at as well: run it as the\n" +
			"user that the gateway runs as.",
		Example: "  gateway check /etc/gateway/gateway.yaml\n" +
			"  gateway check --no-files docs/examples/greenhouse-pi.yaml",
		Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			summary, err := check(cmd, args[0], !noFiles)
			if err != nil {
				return usageError{err}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: ok: %s\n", args[0], summary)
			return nil
		},
	}
	cmd.Flags().BoolVar(&noFiles, "no-files", false, "leave out the files that it refers to, which may be on another machine")
	return cmd
}

// oneFile wants the configuration file as the only argument.
func oneFile(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{fmt.Errorf("want one configuration file, not %d arguments", len(args))}
	}
	return nil
}

// check prints warnings and problems, and returns what the file sets up.
func check(cmd *cobra.Command, name string, files bool) (string, error) {
	c, err := config.Load(name)
	var problems config.Problems
	if err != nil && !errors.As(err, &problems) {
		return "", err
	}
	if c != nil {
		for _, w := range c.Warnings {
			w.Text = "warning: " + w.Text
			fmt.Fprintln(cmd.ErrOrStderr(), w)
		}
		if files {
			problems = append(c.CheckFiles(time.Now()), checkAccess(name, c)...)
			warnWide(cmd, name, c)
		}
	}
	if len(problems) > 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), problems)
		return "", fmt.Errorf("%s: %s", name, count(len(problems), "problem"))
	}
	return summary(c), nil
}

// checkAccess reads the files of users and rules that a configuration file names.
func checkAccess(name string, c *config.Config) (problems config.Problems) {
	for _, file := range []struct {
		key, path string
		check     func(path string) error
	}{
		{"password_file", c.Auth.PasswordFile, passwd.Check},
		{"scram_file", c.Auth.ScramFile, scram.Check},
		{"totp_file", c.Auth.TOTPFile, totp.Check},
	} {
		if file.path == "" {
			continue
		}
		if err := file.check(file.path); err != nil {
			problems = append(problems, config.Problem{File: name, Key: "auth." + file.key, Text: err.Error()})
		}
	}
	if path := c.Auth.ACLFile; path != "" {
		if _, err := acl.OpenFile(path); err != nil {
			problems = append(problems, config.Problem{File: name, Key: "auth.acl_file", Text: strings.ReplaceAll(err.Error(), "\n", "; ")})
		}
	}
	return problems
}

// warnWide prints which commands are denied though somebody may have meant to allow them.
func warnWide(cmd *cobra.Command, name string, c *config.Config) {
	a, err := openAccess(c)
	if err != nil {
		return // it is a problem already
	}
	for _, text := range a.wide() {
		fmt.Fprintln(cmd.ErrOrStderr(), config.Problem{File: name, Key: "auth", Text: "warning: " + text})
	}
}

// summary says in a line what a configuration sets up.
func summary(c *config.Config) string {
	parts := []string{"board " + c.Board}
	for _, p := range []struct {
		n    int
		noun string
	}{
		{len(c.Listeners), "listener"},
		{len(c.Bridges), "bridge"},
		{len(c.Inputs), "input"},
		{len(c.Outputs), "output"},
		{len(c.Serial), "serial port"},
	} {
		if p.n > 0 {
			parts = append(parts, count(p.n, p.noun))
		}
	}
	return strings.Join(parts, ", ")
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
