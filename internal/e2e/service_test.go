package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// asService makes this test binary an HTTP service for logins, in a process of its own.
const asService = "GATEWAY_E2E_SERVICE"

// A remote is a service that a gateway asks. It answers in the way of NanoMQ, or of EMQX 5 with json.
type remote struct {
	t       *testing.T
	address string
	json    bool
	*process
}

// newRemote starts a service.
func newRemote(t *testing.T, json bool) *remote {
	t.Helper()
	r := &remote{t: t, address: freeAddress(t), json: json}
	log := &output{}
	showOnFailure(t, "service", log)
	r.process = launch(t, "service", log, "env", fmt.Sprint(asService, "=", r.address, " ", json), os.Args[0])
	eventually(t, 10*time.Second, "the service answers", func() bool {
		resp, err := http.Get("http://" + r.address + "/")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	})
	return r
}

// section is how a gateway asks it.
func (r *remote) section() string {
	kind := "application/x-www-form-urlencoded"
	if r.json {
		kind = "application/json"
	}
	return fmt.Sprintf(`  http_auth:
    auth_req:
      url: "http://%s/auth"
      method: "POST"
      headers: {content-type: %q}
      params: {clientid: "%%c", username: "%%u", password: "%%P"}
    cache_ttl: 0s
    refused_ttl: 0s
    timeout: 1s
`, r.address, kind)
}

// revoke lets the service forget a user.
func (r *remote) revoke(user string) {
	r.t.Helper()
	resp, err := http.Post("http://"+r.address+"/revoke?user="+user, "", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	resp.Body.Close()
}

// stop lets the service answer nobody, as a process that hangs; its kernel goes on to take connections.
func (r *remote) stop() {
	r.t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		r.t.Fatal(err)
	}
}

// proceed lets it go on.
func (r *remote) proceed() {
	r.t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		r.t.Fatal(err)
	}
}

// decide is the process that newRemote starts. Each user but "unknown" has the password "pencil". A field
// that does not come is a fault of the gateway, which the service answers with a status that no row wants.
func decide(order string) int {
	var address string
	var inJSON bool
	if _, err := fmt.Sscan(order, &address, &inJSON); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var revoked sync.Map
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/revoke", func(_ http.ResponseWriter, r *http.Request) { revoked.Store(r.FormValue("user"), true) })
	mux.HandleFunc("/auth", func(w http.ResponseWriter, r *http.Request) {
		fields := make(map[string]string)
		if inJSON {
			_ = json.NewDecoder(r.Body).Decode(&fields) // what does not come is missed below
		} else if r.ParseForm() == nil {
			for k := range r.PostForm {
				fields[k] = r.PostForm.Get(k)
			}
		}
		user, named := fields["username"]
		password, shown := fields["password"]
		_, gone := revoked.Load(user)
		result := "deny"
		switch {
		case !named || !shown || fields["clientid"] == "":
			w.WriteHeader(http.StatusInternalServerError)
			return
		case user == "garbage":
			garble(w, inJSON)
			return
		case user != "" && user != "unknown" && password == "pencil" && !gone:
			result = "allow"
		}
		switch {
		case !inJSON && result == "deny":
			w.WriteHeader(http.StatusUnauthorized)
		case inJSON && user == "expired":
			fmt.Fprintf(w, `{"result":%q,"expire_at":1}`, result)
		case inJSON:
			fmt.Fprintf(w, `{"result":%q}`, result)
		}
	})
	fmt.Fprintln(os.Stderr, http.ListenAndServe(address, mux))
	return 1
}

// garble answers with what nobody understands: half an object, or bytes that are not HTTP.
func garble(w http.ResponseWriter, inJSON bool) {
	if inJSON {
		fmt.Fprint(w, `{"result":`)
		return
	}
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	fmt.Fprint(conn, "\x00\xff"+strings.Repeat("junk", 1000))
	conn.Close()
}
