package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"rsc.io/qr"

	"gateway/broker/auth/ban"
	"gateway/broker/auth/device"
)

// Files in the data folder that the command line changes while the gateway runs.
const (
	devicesFile = "devices.jsonl"
	bansFile    = "bans.jsonl"
	purgesFile  = "purges.jsonl"
)

// dataFlag adds the flag that says where a gateway keeps its data.
func dataFlag(cmd *cobra.Command) *string {
	return cmd.PersistentFlags().String("data", "/var/lib/gateway", "the data folder of the gateway, gateway.data in its file")
}

func newDevice() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "device",
		Short: "Register devices, each with a secret of its own",
		Long: "Register devices, each with a secret of its own: the user name is the device, the password its secret.\n\n" +
			"A change is in force within a second, whether the gateway runs or not. What is revoked is disconnected.",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	data := dataFlag(cmd)
	registry := func() *device.Registry { return device.Open(filepath.Join(*data, devicesFile)) }
	cmd.AddCommand(newDeviceAdd(registry), newDeviceRotate(registry), newDeviceList(registry), newDeviceShow(registry),
		newDeviceChange("disable", "Keep a device out until it is enabled", registry, (*device.Registry).Disable),
		newDeviceChange("enable", "Let a disabled device in again", registry, (*device.Registry).Enable),
		newDeviceChange("remove", "Remove a device", registry, (*device.Registry).Remove))
	return cmd
}

func newDeviceAdd(registry func() *device.Registry) *cobra.Command {
	var clientID, expires, qrURL string
	var addresses, labels []string
	cmd := &cobra.Command{
		Use:     "add NAME",
		Short:   "Add a device and show its secret, this once",
		Example: "  gateway device add dev-7 --label room=3 --expires 365d --qr mqtts://greenhouse.local:8883",
		Args:    oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := newDeviceOf(args[0], clientID, expires, addresses, labels, time.Now())
			if err != nil {
				return usageError{err}
			}
			target, err := qrTarget(qrURL)
			if err != nil {
				return usageError{err}
			}
			secret, err := registry().Add(d)
			if err != nil {
				return err
			}
			return showSecret(cmd.OutOrStdout(), d.Name, secret, target)
		},
	}
	cmd.Flags().StringVar(&clientID, "client-id", "", "the only client identifier that it may use")
	cmd.Flags().StringVar(&expires, "expires", "", "when it ends: a time as 90d or 12h, or a day as 2027-06-30")
	cmd.Flags().StringArrayVar(&addresses, "address", nil, "an address or a range that it may come from, as 192.0.2.0/24; may be repeated")
	cmd.Flags().StringArrayVar(&labels, "label", nil, "KEY=VALUE, for people; may be repeated")
	cmd.Flags().StringVar(&qrURL, "qr", "", "show a QR code with this URL, as mqtts://HOST:PORT, completed with name and secret")
	return cmd
}

// newDeviceOf returns a device as it is described on the command line or over MQTT.
func newDeviceOf(name, clientID, expires string, addresses, labels []string, now time.Time) (d device.Device, err error) {
	d = device.Device{Name: name, ClientID: clientID}
	if d.Expires, err = ending(expires, now); err != nil {
		return d, err
	}
	for _, s := range addresses {
		p, err := ban.ParseRange(s)
		if err != nil {
			return d, err
		}
		d.Addresses = append(d.Addresses, p)
	}
	for _, s := range labels {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			return d, fmt.Errorf("label %q: KEY=VALUE is wanted", s)
		}
		if d.Labels == nil {
			d.Labels = make(map[string]string)
		}
		d.Labels[key] = value
	}
	return d, nil
}

// ending reads when something ends: a time from now, or a day, whose beginning counts. Empty: never.
func ending(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if day, err := time.ParseInLocation(time.DateOnly, s, time.Local); err == nil {
		return day.UTC(), nil
	}
	d, err := span(s)
	if err != nil || d == 0 {
		return time.Time{}, fmt.Errorf("%q: a time as 90d or 12h is wanted, or a day as 2027-06-30", s)
	}
	return now.Add(d).UTC().Truncate(time.Second), nil
}

// span reads a time that is not negative, with days.
func span(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err == nil && n <= maxDays {
			return time.Duration(n) * dayLength, nil
		}
	} else if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return d, nil
	}
	return 0, fmt.Errorf("%q: a time as 90d or 12h is wanted", s)
}

// qrTarget checks the URL for a QR code.
func qrTarget(s string) (*url.URL, error) {
	if s == "" {
		return nil, nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || !slices.Contains([]string{"mqtt", "mqtts", "ws", "wss"}, u.Scheme) {
		return nil, fmt.Errorf("--qr %q: want mqtt, mqtts, ws or wss://HOST:PORT", s)
	}
	return u, nil
}

// showSecret shows a new secret, which cannot be shown again.
func showSecret(w io.Writer, name, secret string, target *url.URL) error {
	fmt.Fprintf(w, "user name  %s\npassword   %s\nThe secret is not kept and cannot be shown again.\n", name, secret)
	if target == nil {
		return nil
	}
	target.User = url.UserPassword(name, secret)
	code, err := qr.Encode(target.String(), qr.M)
	if err != nil {
		return fmt.Errorf("make the QR code: %w", err)
	}
	return drawCode(w, code)
}

// drawCode draws a QR code, two rows of modules a line, with the margin that ISO/IEC 18004 asks for. The
// light modules are the ones drawn: it is right on a dark terminal, and readers know inverted codes.
func drawCode(w io.Writer, code *qr.Code) error {
	const margin = 4
	var s strings.Builder
	for y := -margin; y < code.Size+margin; y += 2 {
		for x := -margin; x < code.Size+margin; x++ {
			switch upper, lower := !code.Black(x, y), !code.Black(x, y+1); {
			case upper && lower:
				s.WriteRune('█')
			case upper:
				s.WriteRune('▀')
			case lower:
				s.WriteRune('▄')
			default:
				s.WriteByte(' ')
			}
		}
		s.WriteByte('\n')
	}
	_, err := io.WriteString(w, s.String())
	return err
}

func newDeviceRotate(registry func() *device.Registry) *cobra.Command {
	var overlap, qrURL string
	cmd := &cobra.Command{
		Use:   "rotate NAME",
		Short: "Give a device a new secret and show it, this once",
		Long: "Give a device a new secret and show it, this once. Without --overlap the device is disconnected now;\n" +
			"with it, the old secret goes on for so long.",
		Args: oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := span(overlap)
			if err != nil {
				return usageError{fmt.Errorf("--overlap %w", err)}
			}
			target, err := qrTarget(qrURL)
			if err != nil {
				return usageError{err}
			}
			secret, err := registry().Rotate(args[0], d)
			if err != nil {
				return err
			}
			return showSecret(cmd.OutOrStdout(), args[0], secret, target)
		},
	}
	cmd.Flags().StringVar(&overlap, "overlap", "0s", "how long the old secret goes on, as 1h or 7d")
	cmd.Flags().StringVar(&qrURL, "qr", "", "show a QR code with this URL, completed with name and secret")
	return cmd
}

func newDeviceList(registry func() *device.Registry) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the devices",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := registry().List()
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tSTATE\tEXPIRES\tLABELS")
			for _, d := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", d.Name, deviceState(&d), day(d.Expires), labelText(d.Labels))
			}
			return w.Flush()
		},
	}
}

func newDeviceShow(registry func() *device.Registry) *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show what is known of a device",
		Args:  oneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := registry().List()
			if err != nil {
				return err
			}
			i := slices.IndexFunc(all, func(d device.Device) bool { return d.Name == args[0] })
			if i < 0 {
				return fmt.Errorf("%s: %w", args[0], device.ErrNotFound)
			}
			showDevice(cmd.OutOrStdout(), &all[i])
			return nil
		},
	}
}

func showDevice(w io.Writer, d *device.Device) {
	fmt.Fprintf(w, "name       %s\nstate      %s\ncreated    %s\nexpires    %s\n", d.Name, deviceState(d), day(d.Created), day(d.Expires))
	for _, s := range d.Secrets {
		fmt.Fprintf(w, "secret     of %s, expires %s\n", day(s.Created), day(s.Expires))
	}
	fmt.Fprintf(w, "client id  %s\n", cmp.Or(d.ClientID, "any"))
	if len(d.Addresses) == 0 {
		fmt.Fprintln(w, "address    any")
	}
	for _, p := range d.Addresses {
		fmt.Fprintf(w, "address    %s\n", p)
	}
	if len(d.Labels) > 0 {
		fmt.Fprintf(w, "labels     %s\n", labelText(d.Labels))
	}
}

// newDeviceChange makes a subcommand that changes one device and prints nothing.
func newDeviceChange(verb, short string, registry func() *device.Registry, change func(*device.Registry, string) error) *cobra.Command {
	return &cobra.Command{
		Use:   verb + " NAME",
		Short: short,
		Args:  oneName,
		RunE:  func(_ *cobra.Command, args []string) error { return change(registry(), args[0]) },
	}
}

func deviceState(d *device.Device) string {
	switch {
	case d.Disabled:
		return "disabled"
	case !d.Expires.IsZero() && time.Now().After(d.Expires):
		return "expired"
	}
	return "enabled"
}

func day(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format("2006-01-02 15:04")
}

func labelText(labels map[string]string) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		all = append(all, key+"="+labels[key])
	}
	return strings.Join(all, " ")
}

// prefixes returns the texts of address ranges.
func prefixes(all []netip.Prefix) (texts []string) {
	for _, p := range all {
		texts = append(texts, p.String())
	}
	return texts
}
