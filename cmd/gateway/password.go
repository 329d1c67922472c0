package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// askPassword asks for a new password twice at a terminal, which does not show it, and takes the
// first line of any other input.
func askPassword(in io.Reader, out io.Writer, what string) (string, error) {
	lines := bufio.NewReader(in)
	f, ok := in.(*os.File)
	if !ok || !isTerminal(f) {
		return oneLine(lines)
	}
	before, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return "", err
	}
	silent := *before
	silent.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &silent); err != nil {
		return "", err
	}
	defer func() { _ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, before) }()
	fmt.Fprintf(out, "%s: ", what)
	first, err := oneLine(lines)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(out, "\n%s again: ", what)
	second, err := oneLine(lines)
	fmt.Fprintln(out)
	if err == nil && first != second {
		err = errors.New("the two are not the same: nothing was changed")
	}
	return first, err
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

func oneLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil && !(errors.Is(err, io.EOF) && line != "") {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}
