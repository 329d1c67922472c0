package offline

import (
	"encoding/hex"
	"strings"
	"testing"

	"gateway/broker/packet"
	"gateway/broker/session"
)

// The records of sessions as they are on disk: those that were written before sessions had owners, those
// with one, and those of which is known what was sent, which have versions of their own.
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
		{"closed", sessionRecord{number: 7, client: "c", version: packet.V5, expiry: 60, closed: &stamp{}, sent: 300}, "03 07 05 09 3c 0163 0000000000000000 00 00 00 ac02"},
		{
			"an owner with a will",
			sessionRecord{number: 7, client: "c", version: packet.V5, expiry: 60, will: will, owner: &session.Owner{User: "u", Client: "c", Listener: "l", By: "b", Super: true, Groups: []string{"g"}, Rules: []byte("[]")}},
			"02 07 05 06 3c 0163 0175 0163 016c 0162 01 01 0167 00 00 025b5d 09 3005 0001 77 00 78",
		},
	} {
		rec, err := tt.s.sealed()
		must(t, err)
		same(t, tt.name, rec, tt.want)
		s, err := parseSession(rec)
		must(t, err)
		if again, err := s.sealed(); err != nil || string(again) != string(rec) {
			t.Errorf("%s: read and written again it is %x, %v", tt.name, again, err)
		}
	}
}

// same compares a record without its checksum with one in hexadecimal.
func same(t *testing.T, name string, rec []byte, want string) {
	t.Helper()
	want = strings.ReplaceAll(want, " ", "")
	if got := hex.EncodeToString(append([]byte{rec[0]}, rec[sealSize:]...)); got != want {
		t.Errorf("%s: %s, want %s", name, got, want)
	}
}

// The records of queues as they are on disk: those with a rule and those of shared subscriptions have versions
// of their own.
func TestQueuedRecords(t *testing.T) {
	rule := &session.Rule{Number: 5}
	for _, tt := range []struct {
		name string
		to   session.Target
		want string // behind the checksum
	}{
		{"plain", session.Target{QoS: 1}, "01 09 00 07 09"},
		{"by a rule", session.Target{QoS: 2, Retain: true, Rule: rule}, "02 1e 00 05 07 09"},
		{"by a shared subscription", session.Target{QoS: 1, SubscriptionIDs: []uint32{3}, Share: "$share/g/t"}, "03 29 01 03 0a 2473686172652f672f74 07 09"},
		{"by both", session.Target{QoS: 1, Rule: rule, Share: "$share/g/t"}, "03 39 00 05 0a 2473686172652f672f74 07 09"},
	} {
		rec := sealQueued(appendShared(appendTarget(unsealed(0), &tt.to, true), 7, 9))
		same(t, tt.name, rec, tt.want)
		q, err := parseQueued(rec)
		must(t, err)
		if q.qos != tt.to.QoS || q.share != tt.to.Share || q.body != 7 || q.size != 9 || (q.rule == 5) != (tt.to.Rule != nil) {
			t.Errorf("%s: read as %+v", tt.name, q)
		}
	}
}
