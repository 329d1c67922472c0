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
	// HopsProperty counts how often a message has crossed a bridge.
	HopsProperty = "gateway-hops"
)

// maxHops is how many times a message may cross a bridge, in either direction: enough for a site
// behind a site behind a site. Two gateways that fetch from each other what they also send double
// a message at each crossing, so a circle ends with a dozen copies.
const maxHops = 4

// crossing returns the properties of a message that crosses a bridge; ok is false when it has done
// so too often.
func crossing(p packet.Publish, historical bool) (*packet.PublishProperties, bool) {
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

// circle is why a message that has crossed too many bridges ends.
const circle = "it has crossed too many bridges: rules carry it in a circle"

// roundAndRound is why a message ends that seems to do so in 3.1.1, see echoes.
const roundAndRound = "the same message crosses the bridge again and again: rules may carry it in a circle"

// hopsOf returns how many bridges a message says that it has crossed.
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
