package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"time"

	"gateway/broker"
	"gateway/broker/auth"
	"gateway/broker/listen"
	"gateway/broker/packet"
	"gateway/config"
)

// listenAgain is the time between two tries to open an address.
const listenAgain = 5 * time.Second

// listen serves the addresses of the configuration.
func (g *gateway) listen(listeners []config.Listener, packetSize int64) {
	var ctx context.Context
	ctx, g.stopListening = context.WithCancel(context.Background())
	g.listening.Go(func() { g.methods.watch(ctx, g.server, g.access.rolls()) })
	for _, l := range listeners {
		how := treatment(l, g.methods, g.access, g.guests)
		// The first try is made here, so that a gateway that is ready can be reached.
		ln, err := g.open(ctx, l, &how, packetSize)
		g.listening.Go(func() {
			for told := false; ; told = true {
				if err == nil {
					g.log.Info("listening", "listener", l.Name, "address", ln.Addr())
					if err = g.server.Serve(ln, how); err == nil {
						return
					}
				}
				if !told {
					g.log.Error("cannot listen: it will be tried again", "listener", l.Name, "error", err, "every", listenAgain)
				}
				select {
				case <-time.After(listenAgain):
				case <-ctx.Done():
					return
				}
				ln, err = g.open(ctx, l, &how, packetSize)
			}
		})
	}
}

// authenticator returns who decides about the clients of a listener.
func authenticator(l config.Listener, a *access, b *guestbook) auth.Authenticator {
	certificate := auth.Certificate{User: l.Names.User, ClientID: l.Names.ClientID}
	var chain auth.Chain
	for _, way := range l.Auth {
		switch way {
		case "certificate":
			chain = append(chain, certificate)
		case "passwords":
			chain = append(chain, a.users)
		case "device":
			chain = append(chain, b.devices)
		case "http":
			chain = append(chain, b.asked())
		}
	}
	switch {
	case len(chain) > 0 && l.Anonymous:
		return append(chain, auth.Nameless{})
	case len(chain) > 0:
		return chain
	case l.Anonymous:
		return auth.Anonymous{Certificate: certificate}
	case l.TLS != nil && l.TLS.RequireCertificate:
		return certificate
	}
	return auth.Chain{} // its clients use methods
}

// treatment says how the broker treats the clients of a listener.
func treatment(l config.Listener, m *methods, a *access, b *guestbook) broker.Listener {
	return broker.Listener{
		Name: l.Name, Auth: authenticator(l, a, b), Mechanisms: m.of(l, a.users), Rules: b.rules(l, a), EndDenied: a.endDenied, Versions: versions(l.Versions), Prefix: l.Prefix,
		Bounds: broker.Bounds{
			Connections: l.Limits.Connections, PacketSize: int(l.Limits.PacketSize),
			MessageRate: l.Limits.MessageRate, ByteRate: int(l.Limits.ByteRate),
			ReceiveMaximum: uint16(l.Limits.ReceiveMaximum), Inflight: uint16(l.Limits.Inflight),
			ConnectTime: l.Limits.ConnectTimeout, KeepAlive: l.Limits.KeepAlive,
		},
	}
}

// open opens the address of a listener, whose clients are treated so over HTTP as well.
func (g *gateway) open(ctx context.Context, l config.Listener, how *broker.Listener, packetSize int64) (*listen.Listener, error) {
	o := listen.Options{
		Name: l.Name, Address: l.Address, Log: g.log,
		WebSocket: listen.Web{
			Path: l.WebSocket.Path, Origins: l.WebSocket.Origins,
			MessageSize: max(2*cmp.Or(l.Limits.PacketSize, packetSize), 1<<20), // several packets may share a message
		},
		Socket: listen.Socket{Owner: l.Socket.Owner, Group: l.Socket.Group, Mode: l.Socket.FileMode()},
	}
	for _, p := range l.Protocols {
		o.Protocols |= protocols[p]
	}
	if !l.Anonymous {
		o.API = &api{control: &g.guests.control, door: g.guests.door, who: how.Auth, rules: how.Rules, listener: l.Name, log: g.log}
	}
	if t := l.TLS; t != nil {
		o.Plain = t.Plain
		o.TLS = &listen.Files{
			ReadKey: func(file string) ([]byte, error) { return config.ReadKey(file, t.KeyPassword) },
			Cert:    t.Cert, Key: t.Key, ClientCA: t.ClientCA, CRL: t.CRL, RequireCertificate: t.RequireCertificate,
			Now: g.clock.Now,
		}
		if t.MinVersion == "1.3" {
			o.TLS.MinVersion = tls.VersionTLS13
		}
	}
	return listen.Open(ctx, o)
}

// protocols has the words of the configuration.
var protocols = map[string]listen.Protocols{"mqtt": listen.MQTT, "websocket": listen.WebSocket, "http": listen.HTTP}

// versions returns the versions of MQTT that a listener lets in; nil: all.
func versions(words []string) (allowed []packet.Version) {
	for _, w := range words {
		switch w {
		case "3.1":
			allowed = append(allowed, packet.V31)
		case "3.1.1":
			allowed = append(allowed, packet.V311)
		case "5.0":
			allowed = append(allowed, packet.V5)
		}
	}
	return allowed
}
