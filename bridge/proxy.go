package bridge

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
)

var (
	errProxy  = errors.New("proxy")
	errSocket = errors.New("WebSocket")
)

// maxProxyAnswer is how many bytes of headers a proxy may answer.
const maxProxyAnswer = 16 << 10

// askHTTP asks an HTTP proxy to connect to t (RFC 9110, 9.3.6).
func (p Proxy) askHTTP(conn net.Conn, t target) error {
	request := "CONNECT " + t.address() + " HTTP/1.1\r\nHost: " + t.address() + "\r\n"
	if p.Username != "" {
		request += "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(p.Username+":"+p.Password)) + "\r\n"
	}
	if _, err := io.WriteString(conn, request+"\r\n"); err != nil {
		return err
	}
	// Byte by byte, so that nothing of what follows the answer is taken.
	var answer []byte
	for one := make([]byte, 1); !bytes.HasSuffix(answer, []byte("\r\n\r\n")); {
		if len(answer) == maxProxyAnswer {
			return fmt.Errorf("an answer of more than %d bytes: this is no HTTP proxy", maxProxyAnswer)
		}
		if _, err := io.ReadFull(conn, one); err != nil {
			return err
		}
		answer = append(answer, one[0])
	}
	response, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return fmt.Errorf("what answers is no HTTP proxy: %w", err)
	}
	response.Body.Close()
	switch {
	case response.StatusCode == http.StatusProxyAuthRequired, response.StatusCode == http.StatusUnauthorized: // as tinyproxy says
		return errors.New("the proxy wants a user name and password: check proxy_username and proxy_password")
	case response.StatusCode/100 != 2:
		return fmt.Errorf("the proxy refuses to connect to %s: %s", t.address(), response.Status)
	}
	return nil
}

// socksReplies are the words for the reply field (RFC 1928, 6).
var socksReplies = map[byte]string{
	1: "general failure", 2: "its rules do not allow it", 3: "it cannot reach the network", 4: "it cannot reach the host",
	5: "the connection is refused", 6: "TTL expired", 7: "it does not know the command", 8: "it does not know the address type",
}

// askSOCKS asks a SOCKS5 proxy to connect to t, whose name the proxy looks up (RFC 1928, RFC 1929).
func (p Proxy) askSOCKS(conn net.Conn, t target) error {
	const version, none, password = 5, 0, 2
	greeting := []byte{version, 1, none}
	if p.Username != "" {
		greeting = []byte{version, 1, password}
	}
	answer, err := exchange(conn, greeting, 2)
	switch {
	case err != nil:
		return err
	case answer[0] != version:
		return errors.New("what answers is no SOCKS5 proxy")
	case answer[1] != greeting[2]:
		return errors.New("the proxy wants another authentication: check proxy_username and proxy_password")
	}
	if p.Username != "" {
		if len(p.Username) > 255 || len(p.Password) > 255 {
			return errors.New("user name or password for the proxy is longer than 255 bytes")
		}
		login := append([]byte{1, byte(len(p.Username))}, p.Username...)
		login = append(append(login, byte(len(p.Password))), p.Password...)
		if answer, err = exchange(conn, login, 2); err != nil {
			return err
		}
		if answer[1] != 0 {
			return errors.New("the proxy refuses user name or password: check proxy_username and proxy_password")
		}
	}
	port, err := strconv.ParseUint(t.port, 10, 16)
	if err != nil || len(t.host) > 255 {
		return fmt.Errorf("%s is no address for a proxy", t.address())
	}
	request := append([]byte{version, 1, 0, 3, byte(len(t.host))}, t.host...)
	if answer, err = exchange(conn, binary.BigEndian.AppendUint16(request, uint16(port)), 5); err != nil {
		return err
	}
	if answer[1] != 0 {
		why := socksReplies[answer[1]]
		if why == "" {
			why = fmt.Sprintf("reply %d", answer[1])
		}
		return fmt.Errorf("the proxy cannot connect to %s: %s", t.address(), why)
	}
	// The rest is the address from which the proxy connects: the first byte of it is read already.
	rest := map[byte]int{1: 4 - 1, 4: 16 - 1, 3: int(answer[4])}[answer[3]] + 2
	_, err = exchange(conn, nil, rest)
	return err
}

// exchange writes a message and reads one of so many bytes.
func exchange(conn net.Conn, message []byte, size int) ([]byte, error) {
	if _, err := conn.Write(message); err != nil {
		return nil, err
	}
	answer := make([]byte, size)
	_, err := io.ReadFull(conn, answer)
	return answer, err
}
