package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"gateway/offline"
)

// A statReport is what "gateway store stat" prints of a store. Its figures mean the same whether a gateway
// runs on the store or not; what only a gateway knows is behind them.
type statReport struct {
	Running bool          `json:"running"`
	State   offline.State `json:"state,omitempty"` // of a store that a gateway has, as all that is not there else
	Remedy  string        `json:"remedy,omitempty"`
	offline.Figures
	Since *runningStat `json:"since_start,omitempty"`
}

// A runningStat counts since the gateway has opened the store.
type runningStat struct {
	Messages int64 `json:"messages_stored"` // each queue counted
	Bytes    int64 `json:"bytes_stored"`
	Commits  int64 `json:"commits"`
	Refused  int64 `json:"refused"`
	Damaged  int64 `json:"damaged"`
	ToSweep  int64 `json:"messages_to_sweep"`

	Writes json.RawMessage `json:"writes,omitempty"` // to the disk, as on $SYS/broker/store/writes
}

// stat returns the report of a store that is open, as JSON.
func (v *vault) stat(store *offline.Store) ([]byte, error) {
	f, err := store.Figures()
	if err != nil {
		return nil, err
	}
	s := store.Stats()
	r := statReport{Running: true, Figures: f, Since: &runningStat{
		Messages: s.Messages, Bytes: s.Bytes, Commits: s.Commits, Refused: s.Refused, Damaged: s.Damaged, ToSweep: s.Dead,
	}}
	r.State, r.Remedy = offline.StateOf(s.LastError)
	v.mu.Lock()
	defer v.mu.Unlock()
	r.Since.Writes = v.writes
	return json.Marshal(r)
}

func newStoreStat() *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "stat FILE",
		Short: "Print the figures of a store, also while its gateway runs",
		Long: "Print what is in a store. If a gateway runs on it, it is asked, and tells what it has done with the store\n" +
			"as well; if none does, the file is read, which takes longer. It is not changed.",
		Example: "  gateway store stat /var/lib/gateway/store.db\n  gateway store stat --json /var/lib/gateway/store.db | jq .waiting_messages",
		Args:    oneStore,
		RunE: func(cmd *cobra.Command, args []string) error {
			var r statReport
			var text bytes.Buffer
			err := ask(args[0], "stat", &text)
			switch {
			case err == nil:
				err = json.Unmarshal(text.Bytes(), &r)
			case errors.Is(err, errNotRunning):
				r.Figures, err = offline.FiguresOf(args[0])
			}
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
			}
			return r.print(cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func (r *statReport) print(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	state := "no gateway runs on it"
	if r.Running {
		state = string(r.State)
	}
	fmt.Fprintf(w, "state\t%s\n", state)
	if r.Remedy != "" {
		fmt.Fprintf(w, "remedy\t%s\n", r.Remedy)
	}
	for _, line := range []struct {
		what  string
		count int64
	}{
		{"file bytes", r.FileBytes},
		{"of them free", r.FreeBytes},
		{"bytes on the disk", r.DiskBytes},
		{"sessions", int64(r.Sessions)},
		{"subscriptions", int64(r.Subscriptions)},
		{"received identifiers", int64(r.Received)},
		{"waiting messages", r.Messages},
		{"waiting bytes", r.Bytes},
		{"retained messages", int64(r.Retained)},
	} {
		fmt.Fprintf(w, "%s\t%d\n", line.what, line.count)
	}
	if s := r.Since; s != nil {
		fmt.Fprintln(w, "since the gateway has opened it:")
		for _, line := range []struct {
			what  string
			count int64
		}{
			{"messages stored", s.Messages},
			{"bytes stored", s.Bytes},
			{"commits", s.Commits},
			{"refused", s.Refused},
			{"damaged records", s.Damaged},
			{"messages to sweep", s.ToSweep},
		} {
			fmt.Fprintf(w, "%s\t%d\n", line.what, line.count)
		}
		if len(s.Writes) > 0 {
			fmt.Fprintf(w, "written to the disk\t%s\n", s.Writes)
		}
	}
	return w.Flush()
}
