package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func newNanoMQ() *cobra.Command {
	return &cobra.Command{
		Use:   "nanomq FILE",
		Short: "Translate the HTTP authentication of a configuration file of NanoMQ",
		Long: "Translate the HTTP authentication of a configuration file of NanoMQ, the block http_auth, into section auth of the\n" +
			"gateway's. Give a listener auth: [http] beside it. What has no counterpart stands in the output as a comment.",
		Example: "  gateway nanomq /etc/nanomq.conf >> gateway.yaml",
		Args:    oneConfig,
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			b, err := io.ReadAll(io.LimitReader(f, maxHOCON+1))
			if err != nil {
				return err
			}
			text, err := translateNanoMQ(string(b))
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			fmt.Fprint(cmd.OutOrStdout(), text)
			return nil
		},
	}
}

func oneConfig(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usageError{errors.New("want one configuration file of NanoMQ")}
	}
	return nil
}

// translateNanoMQ returns section auth for what a file of NanoMQ says, in HOCON or in its older form
// of one key a line.
func translateNanoMQ(src string) (string, error) {
	settings, err := parseHOCON(src)
	if err != nil {
		return "", err
	}
	found := make(map[string]string)
	var rest []string
	for _, s := range settings {
		key, ok := "", false
		for _, prefix := range []string{"auth.http_auth.", "auth.http.", "http_auth."} {
			if key, ok = strings.CutPrefix(s.key, prefix); ok {
				break
			}
		}
		switch {
		case !ok:
		case translated(key):
			found[key] = s.value
		case key != "enable":
			rest = append(rest, fmt.Sprintf("    # %s = %s\n", strings.Trim(strconv.Quote(key), `"`), strconv.Quote(s.value)))
		}
	}
	if found["auth_req.url"] == "" {
		return "", errors.New("it has no block http_auth with auth_req and its url")
	}
	var out strings.Builder
	out.WriteString("auth:\n  http_auth:\n")
	for _, request := range []string{"auth_req", "super_req", "acl_req"} {
		if found[request+".url"] == "" {
			continue
		}
		fmt.Fprintf(&out, "    %s:\n", request)
		for _, key := range []string{"url", "method"} {
			if value, ok := found[request+"."+key]; ok {
				fmt.Fprintf(&out, "      %s: %s\n", key, strconv.Quote(value))
			}
		}
		for _, list := range []string{"headers", "params"} {
			var lines []string
			for key, value := range found {
				if name, ok := strings.CutPrefix(key, request+"."+list+"."); ok {
					line := fmt.Sprintf("        %s: %s", strconv.Quote(name), strconv.Quote(value))
					if request == "acl_req" && (strings.Contains(value, "%P") || strings.Contains(value, "${password}")) {
						line += " # empty: the password is not kept after the login"
					}
					lines = append(lines, line+"\n")
				}
			}
			if slices.Sort(lines); len(lines) > 0 {
				fmt.Fprintf(&out, "      %s:\n%s", list, strings.Join(lines, ""))
			}
		}
	}
	for _, key := range []string{"timeout", "connect_timeout", "pool_size", "cache_ttl"} {
		if value, ok := found[key]; ok {
			fmt.Fprintf(&out, "    %s: %s\n", key, strconv.Quote(value))
		}
	}
	return out.String() + strings.Join(rest, ""), nil
}

// translated reports whether a key of the block has a counterpart.
func translated(key string) bool {
	if slices.Contains([]string{"timeout", "connect_timeout", "pool_size", "cache_ttl"}, key) {
		return true
	}
	request, of, ok := strings.Cut(key, ".")
	return ok && slices.Contains([]string{"auth_req", "super_req", "acl_req"}, request) &&
		(of == "url" || of == "method" || strings.HasPrefix(of, "headers.") || strings.HasPrefix(of, "params."))
}

// Limits of a file to translate.
const (
	maxHOCON      = 1 << 20 // bytes
	maxHOCONDepth = 32      // of objects and lists within each other
)

// A setting is a key with the keys of all objects around it, and its value.
type setting struct{ key, value string }

// A hocon reads the part of HOCON that configuration files of NanoMQ use: objects, lists, texts
// with and without quotes, dotted keys, comments. It has no substitutions and includes.
type hocon struct {
	src      string
	at       int
	settings []setting
}

func parseHOCON(src string) ([]setting, error) {
	if len(src) > maxHOCON {
		return nil, fmt.Errorf("larger than %d bytes", maxHOCON)
	}
	h := &hocon{src: src}
	if err := h.object("", 0, false); err != nil {
		return nil, fmt.Errorf("line %d: %w", 1+strings.Count(h.src[:h.at], "\n"), err)
	}
	return h.settings, nil
}

// skip skips white space, comments, and what separates entries.
func (h *hocon) skip(separators string) {
	for h.at < len(h.src) {
		switch rest := h.src[h.at:]; {
		case strings.ContainsRune(" \t\r\n"+separators, rune(rest[0])):
			h.at++
		case rest[0] == '#', strings.HasPrefix(rest, "//"):
			end := strings.IndexByte(rest, '\n')
			if end < 0 {
				end = len(rest)
			}
			h.at += end
		default:
			return
		}
	}
}

// object reads entries up to the } that closes it; the outermost one ends with the file.
func (h *hocon) object(path string, depth int, closed bool) error {
	if depth > maxHOCONDepth {
		return fmt.Errorf("more than %d objects within each other", maxHOCONDepth)
	}
	for {
		h.skip(",")
		switch {
		case h.at == len(h.src) && !closed:
			return nil
		case h.at == len(h.src):
			return errors.New("a } is missing at the end")
		case h.src[h.at] == '}' && closed:
			h.at++
			return nil
		}
		key, err := h.text("=:{")
		if err != nil {
			return err
		}
		if key == "" {
			return errors.New("a key is wanted")
		}
		if path != "" {
			key = path + "." + key
		}
		h.skip("=:")
		if err := h.value(key, depth); err != nil {
			return err
		}
	}
}

// value reads what a key stands for. Entries of a list are not told apart.
func (h *hocon) value(key string, depth int) error {
	switch {
	case h.at == len(h.src):
		return fmt.Errorf("%s has no value", key)
	case h.src[h.at] == '{':
		h.at++
		return h.object(key, depth+1, true)
	case h.src[h.at] != '[':
		text, err := h.text("")
		h.settings = append(h.settings, setting{key, text})
		return err
	case depth >= maxHOCONDepth:
		return fmt.Errorf("more than %d lists within each other", maxHOCONDepth)
	}
	h.at++
	for {
		h.skip(",")
		if h.at == len(h.src) {
			return errors.New("a ] is missing at the end")
		}
		if h.src[h.at] == ']' {
			h.at++
			return nil
		}
		before := h.at
		if err := h.value(key, depth+1); err != nil {
			return err
		}
		if h.at == before {
			return fmt.Errorf("%q within a list", h.src[h.at])
		}
	}
}

// text reads a text in quotes, or one that ends with its line, a separator, a comment, or one of
// the characters in stop.
func (h *hocon) text(stop string) (string, error) {
	if h.src[h.at] == '"' {
		rest, err := strconv.QuotedPrefix(h.src[h.at:])
		if err != nil {
			return "", errors.New("a text in quotes does not end, or has a \\ that means nothing")
		}
		h.at += len(rest)
		return strconv.Unquote(rest)
	}
	begin := h.at
	for h.at < len(h.src) && !strings.ContainsRune("\n,}]#"+stop, rune(h.src[h.at])) {
		h.at++
	}
	return strings.TrimSpace(h.src[begin:h.at]), nil
}
