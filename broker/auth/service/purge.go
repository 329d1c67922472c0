package service

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"gateway/broker/auth/ledger"
)

// A Purge says about whom the service is to be asked again: the clients with this identifier, this user
// name, or both. Empty stands for all.
type Purge struct {
	Client string `json:"client,omitempty"`
	User   string `json:"user,omitempty"`
}

func (p Purge) matches(client, user string) bool {
	return (p.Client == "" || client == p.Client) && (p.User == "" || user == p.User)
}

// Purges are orders to forget, in a file: others write them, the gateway carries them out and takes them
// from the file, at its next start if it does not run.
type Purges struct{ ledger *ledger.Ledger[Purge] }

// OpenPurges returns the orders in the file at path, which need not be there yet.
func OpenPurges(path string) Purges { return Purges{ledger.New[Purge](path, "purges")} }

// Add adds an order.
func (p Purges) Add(one Purge) error {
	return p.ledger.Change(func(all []Purge) ([]Purge, error) {
		if slices.Contains(all, one) {
			return all, nil
		}
		return append(all, one), nil
	})
}

// lookEvery is how often the file is looked at where the kernel does not tell: an order is carried out
// within a second.
const lookEvery = 300 * time.Millisecond

// Run carries out what there is and what comes, until ctx ends.
func (p Purges) Run(ctx context.Context, purge func(Purge) error, log *slog.Logger) {
	p.ledger.Follow(ctx, lookEvery, func(all []Purge, err error) { p.carryOut(all, err, purge, log) })
}

// Begin carries out what there is now.
func (p Purges) Begin(purge func(Purge) error, log *slog.Logger) {
	all, err := p.ledger.Read()
	p.carryOut(all, err, purge, log)
}

// carryOut leaves in the file what could not be done.
func (p Purges) carryOut(all []Purge, err error, purge func(Purge) error, log *slog.Logger) {
	var done []Purge
	for _, one := range all {
		if err = purge(one); err != nil {
			break
		}
		done = append(done, one)
	}
	if len(done) > 0 {
		log.Info("what the HTTP service has said is forgotten, as an administrator has asked", "orders", len(done))
		gone := func(left []Purge) ([]Purge, error) {
			return slices.DeleteFunc(left, func(one Purge) bool { return slices.Contains(done, one) }), nil
		}
		if removeErr := p.ledger.Change(gone); err == nil {
			err = removeErr
		}
	}
	if err != nil {
		log.Error("an order to forget what the HTTP service has said cannot be carried out to the end: it is tried again at the next start", "error", err)
	}
}
