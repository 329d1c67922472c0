package offline

import (
	"encoding/hex"
	"testing"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// The records of sessions as they are on disk: those that were written before sessions had owners, and
// those with one, which have a version of their own.
func TestSessionRecords(t *testing.T) {
	will := &packet.Will{Topic: "w", Payload: []byte("x"), Delay: 9}
	for _, tt := range []struct {
		name string
		s    sessionRecord
		want string // behind the checksum
	}{
		{"no owner", sessionRecord{number: 7, client: "c", version: packet.V5, expiry: 60}, "01 07 05 00 3c 0163"},
		{"no owner, a will", sessionRecord{number: 7, client: "c", version: packet.V5, expiry: 60, will: will}, "01 07 05 02 3c 0163 09 3005 0001 77 00 78"},
		{"anonymous", sessionRecord{number: 7, client: "c", version: packet.V5, expiry: 60, owner: &session.Owner{}}, "02 07 05 04 3c 0163 00"},
		{"an owner", sessionRecord{number: 7, client: "c", version: packet.V5, expiry: 60, owner: &session.Owner{User: "ann", Listener: "not kept without a will"}}, "02 07 05 04 3c 0163 03616e6e"},
		{
			"an owner with a will",
			sessionRecord{number: 7, client: "c", version: packet.V5, expiry: 60, will: will, owner: &session.Owner{User: "u", Client: "c", Listener: "l", By: "b", Super: true, Groups: []string{"g"}, Rules: []byte("[]")}},
			"02 07 05 06 3c 0163 0175 0163 016c 0162 01 01 0167 00 00 025b5d 09 3005 0001 77 00 78",
		},
	} {
		rec, err := tt.s.sealed()
		must(t, err)
		var want []byte
		for _, field := range tt.want {
			if field != ' ' {
				want = append(want, byte(field))
			}
		}
		got := hex.EncodeToString(append([]byte{rec[0]}, rec[sealSize:]...))
		if got != string(want) {
			t.Errorf("%s: %s, want %s", tt.name, got, want)
		}
		s, err := parseSession(rec)
		must(t, err)
		if again, err := s.sealed(); err != nil || string(again) != string(rec) {
			t.Errorf("%s: read and written again it is %x, %v", tt.name, again, err)
		}
	}
}
