package listen

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gorilla/websocket"
)

// maxHead is how many bytes of an HTTP request are read.
const maxHead = 8 << 10

// subprotocols are the names that MQTT has in WebSocket: the one of the specification
// [MQTT-6.0.0-3], and the one that clients of 3.1 use.
var subprotocols = []string{"mqtt", "mqttv3.1"}

// An exchange is one HTTP request and its answer: the upgrade to WebSocket, or a few words and the
// end of the connection.
type exchange struct {
	o     *Options
	below *undated
	in    *bufio.Reader
	from  net.Addr
	tls   *tls.ConnectionState // nil: no TLS
}

// serve reads the request, of which rest has come already, and answers it; ctx ends what waits for
// others. It returns a WebSocket
// or an error; io.EOF, with some words around, when all is well and nothing more will come.
func (e *exchange) serve(ctx context.Context, rest []byte) (*webSocket, error) {
	wire := &noting{Reader: e.below}
	head := &io.LimitedReader{R: io.MultiReader(bytes.NewReader(rest), wire), N: maxHead}
	e.in = bufio.NewReaderSize(head, 1024)
	r, err := http.ReadRequest(e.in)
	switch {
	case err == nil:
		return e.answer(r.WithContext(ctx))
	case head.N == 0:
		e.reply(http.StatusRequestHeaderFieldsTooLarge, fmt.Sprintf("more than %d bytes", maxHead))
		return nil, fmt.Errorf("HTTP request: more than %d bytes", maxHead)
	case wire.err != nil:
		return nil, fmt.Errorf("HTTP request: %w", wire.err)
	}
	e.reply(http.StatusBadRequest, "this port speaks HTTP")
	return nil, fmt.Errorf("HTTP request: %w", err)
}

// A noting reader remembers its error. An HTTP request that broke off looks like a malformed one.
type noting struct {
	io.Reader
	err error
}

func (n *noting) Read(b []byte) (k int, err error) {
	k, err = n.Reader.Read(b)
	n.err = err
	return k, err
}

// answer answers a request.
func (e *exchange) answer(r *http.Request) (*webSocket, error) {
	takes, web := e.o.Protocols, &e.o.WebSocket
	switch {
	case takes&HTTP > 0 && r.URL.Path == "/health" && r.Method == http.MethodGet:
		e.reply(http.StatusOK, "ok")
		return nil, fmt.Errorf("answered an HTTP request: %w", io.EOF)
	case takes&HTTP > 0 && e.o.API != nil && strings.HasPrefix(r.URL.Path, "/api/"):
		e.ask(r)
		return nil, fmt.Errorf("answered an HTTP request: %w", io.EOF)
	case takes&WebSocket == 0 || r.URL.Path != web.Path && r.URL.Path != "/" || !websocket.IsWebSocketUpgrade(r):
		e.reply(http.StatusNotFound, "not found")
		return nil, fmt.Errorf("answered an HTTP request: %w", io.EOF)
	case !slices.ContainsFunc(websocket.Subprotocols(r), func(s string) bool { return slices.Contains(subprotocols, s) }):
		e.reply(http.StatusBadRequest, "the subprotocol of this WebSocket is mqtt")
		return nil, fmt.Errorf("WebSocket subprotocol %q: mqtt is spoken here", r.Header.Get("Sec-WebSocket-Protocol"))
	}
	up := websocket.Upgrader{
		WriteBufferSize: writeBuffer, WriteBufferPool: &writeBuffers,
		Subprotocols: subprotocols,
		CheckOrigin:  web.welcomes,
		Error: func(_ http.ResponseWriter, _ *http.Request, status int, reason error) {
			e.reply(status, reason.Error())
		},
	}
	ws, err := up.Upgrade(e, r, nil)
	if err != nil {
		return nil, fmt.Errorf("WebSocket, origin %q: %w", r.Header.Get("Origin"), err)
	}
	return newWebSocket(ws, e.below, e.in, web.MessageSize), nil
}

// welcomes tells whether the page that asks for the connection may have it. Browsers let any page
// connect anywhere, and say which one it is.
func (w *Web) welcomes(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true // no browser
	}
	if u, err := url.Parse(origin); err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host) {
		return true
	}
	return slices.ContainsFunc(w.Origins, func(o string) bool { return o == "*" || strings.EqualFold(o, origin) })
}

// ask lets the interface answer.
func (e *exchange) ask(r *http.Request) {
	r.RemoteAddr, r.TLS = e.from.String(), e.tls
	w := response{header: make(http.Header), status: http.StatusOK}
	e.o.API.ServeHTTP(&w, r)
	w.header.Set("Content-Length", strconv.Itoa(w.body.Len()))
	w.header.Set("Connection", "close")
	var head bytes.Buffer
	fmt.Fprintf(&head, "HTTP/1.1 %d %s\r\n", w.status, http.StatusText(w.status))
	_ = w.header.Write(&head) // a buffer takes everything
	head.WriteString("\r\n")
	_, _ = e.below.Write(append(head.Bytes(), w.body.Bytes()...)) // the client may be gone
}

// A response is one that is sent when it is whole.
type response struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *response) Header() http.Header         { return w.header }
func (w *response) WriteHeader(status int)      { w.status = status }
func (w *response) Write(b []byte) (int, error) { return w.body.Write(b) }

// reply sends a whole response; the connection ends after it.
func (e *exchange) reply(status int, text string) {
	_, _ = fmt.Fprintf(e.below, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s\n",
		status, http.StatusText(status), len(text)+1, text)
}

// Header, WriteHeader and Write make an exchange an http.ResponseWriter for the upgrade, which
// says all that it has to say through Hijack or reply.
func (e *exchange) Header() http.Header       { return make(http.Header) }
func (e *exchange) WriteHeader(int)           {}
func (e *exchange) Write([]byte) (int, error) { return 0, http.ErrNotSupported }

// Hijack hands over the connection, to be read through another buffer than the request, unless there is
// something in that.
func (e *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if e.in.Buffered() == 0 {
		e.in = bufio.NewReaderSize(e.below, readBuffer)
	}
	return e.below, bufio.NewReadWriter(e.in, bufio.NewWriterSize(e.below, 1)), nil
}
