// Command gateway is an edge gateway: a local MQTT broker, the sensors and actuators of one
// board, a durable store, and bridges to brokers upstream, in one binary.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

// Exit codes.
const (
	exitFailure = 1  // the command did not do what it was asked for
	exitUsage   = 2  // the command line is wrong, or the file to check: nothing was done
	exitConfig  = 78 // run has a configuration that it cannot run: to start it again would not help (sysexits.h)
)

// A usageError is a mistake in the command line or the configuration.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// A configError is a configuration that cannot be run.
type configError struct{ error }

func (e configError) Unwrap() error { return e.error }

func main() {
	err := newRoot().Execute()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "gateway:", err)
	switch {
	case errors.As(err, new(usageError)):
		os.Exit(exitUsage)
	case errors.As(err, new(configError)):
		os.Exit(exitConfig)
	}
	os.Exit(exitFailure)
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "gateway",
		Short:         "Edge gateway: MQTT broker, sensors, durable store and cloud bridge in one",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newPub(), newSub(), newHealth(), newCheck(), newExplain(), newCA(), newStore(), newDevice(), newBan(), newCache(), newNanoMQ(), newPasswd(), newScram(), newTOTP(), newGuard(), newRun())
	return root
}
