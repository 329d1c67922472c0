package bridge

import (
	"slices"
	"strconv"

	"gateway/broker/packet"
)

// The names of the user properties that the bridge adds to a message in 5.0.
const (
	// HistoricalProperty marks a message that follows fresh ones after an outage.
	HistoricalProperty = "gateway-historical"
	// HopsProperty counts the bridges that a message has come over.
	HopsProperty = "gateway-hops"
)

// maxHops is how many bridges a message may come over: enough for a site behind a site behind a
// site, and few enough that rules which form a circle are noticed at once.
const maxHops = 8

// properties returns the properties of an outgoing message; ok is false when it has come over too
// many bridges.
func properties(p packet.Publish, historical bool) (*packet.PublishProperties, bool) {
	var out packet.PublishProperties
	if p.Properties != nil {
		out = *p.Properties
	}
	hops := hopsOf(p)
	if hops >= maxHops {
		return nil, false
	}
	out.TopicAlias, out.SubscriptionIDs = 0, nil
	out.User = slices.DeleteFunc(slices.Clone(out.User), func(u packet.UserProperty) bool {
		return u.Name == HopsProperty || u.Name == HistoricalProperty
	})
	out.User = append(out.User, packet.UserProperty{Name: HopsProperty, Value: strconv.Itoa(hops + 1)})
	if historical {
		out.User = append(out.User, packet.UserProperty{Name: HistoricalProperty, Value: "1"})
	}
	return &out, true
}

// hopsOf returns how many bridges a message says that it has come over.
func hopsOf(p packet.Publish) int {
	if p.Properties == nil {
		return 0
	}
	most := 0
	for _, u := range p.Properties.User {
		if u.Name != HopsProperty {
			continue
		}
		if n, err := strconv.Atoi(u.Value); err == nil {
			most = max(most, n)
		}
	}
	return most
}
