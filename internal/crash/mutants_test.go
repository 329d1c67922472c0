package crash

import "testing"

// soon is the number of rounds in which the harness has to notice that what was acknowledged is not
// on disk. Other promises are broken only by a death in a narrow moment, which on a busy machine
// may take until later to come.
const (
	soon  = 20
	later = 120
)

// withoutFsync makes a gateway that never waits for its disk.
var withoutFsync = edit{"offline/file.go", "NoFreelistSync: true,", "NoFreelistSync: true, NoSync: true,"}

// TestHarness shows that the harness can fail: gateways with one promise broken, by an edit of
// their source, do not come through the rounds.
func TestHarness(t *testing.T) {
	needDisk(t)
	for _, tt := range []struct {
		name   string
		rounds int
		edits  []edit
	}{
		{"no fsync", soon, []edit{withoutFsync}},
		{"acknowledged before the commit", soon, []edit{{
			"offline/commit.go",
			"\t\t\tc.debt.commit(c, batch)\n",
			"\t\t\tfor _, u := range batch {\n\t\t\t\tif u.done != nil {\n\t\t\t\t\tu.done(nil)\n\t\t\t\t\tu.done = nil\n\t\t\t\t}\n\t\t\t}\n\t\t\tc.debt.commit(c, batch)\n",
		}}},
		{"identifiers of QoS 2 not kept", later, []edit{{
			"broker/publish.go",
			"u.changes = append(u.changes, &session.Received{Client: u.from.id, ID: u.id})",
			"",
		}}},
		{"PUBCOMP before the identifier is released", later, []edit{{
			"broker/session/state.go",
			"step := Step{Reply: comp, Wait: s.Durable}",
			"step := Step{Reply: comp}",
		}}},
		{"PUBREL before PUBREC is kept", later, []edit{{
			"broker/session/state.go",
			"step := Step{Reply: rel, Wait: s.Durable}\n\tif e.Stage == Pending && s.Durable {",
			"step := Step{Reply: rel}\n\tif false {",
		}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, mutant(t, "mutant", tt.edits...), newDisk(), "3.1.1")
			s.begin()
			for i := range tt.rounds {
				how, faults := s.round(func() string { s.cut(fate(s.random.IntN(int(fates)))); return "cut" })
				if len(faults) > 0 {
					t.Logf("noticed in round %d, %s: %s", i+1, how, faults[0])
					return
				}
			}
			t.Errorf("not noticed in %d rounds: %v", tt.rounds, s.book.sum())
		})
	}
}
