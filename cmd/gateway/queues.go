package main

import (
	"cmp"
	"strconv"

	"gateway/bridge"
	"gateway/broker/session"
	"gateway/config"
)

// sessionQuota bounds the queue of a durable session of the network. One cannot fill the store alone.
func sessionQuota(s config.Store) session.Quota {
	q := quota(s.Queue, "drop_newest")
	q.Bytes = cmp.Or(q.Bytes, s.MaxSize/4)
	return q
}

// bridgeRooms bound the queues of the bridges and their dead letters, by client identifier.
func bridgeRooms(c *config.Config) map[string]*session.Room {
	rooms := make(map[string]*session.Room)
	for _, b := range c.Bridges {
		full := cmp.Or(b.Queue.Full, "drop_oldest")
		for lane := range bridge.MaxLanes {
			room := &session.Room{Quota: quota(b.Queue, full)}
			room.Quota.Bytes = cmp.Or(room.Quota.Bytes, c.Store.MaxSize/2)
			for _, r := range b.Rules {
				if r.Direction != "in" {
					room.Rules = append(room.Rules, session.NewRule(r.LocalPrefix+r.Filter, quota(r.Queue, full)))
				}
			}
			rooms[bridgeSession(b.Name, lane)] = room
		}
		rooms[bridge.DeadTopic(b.Name)] = &session.Room{Quota: session.Quota{Bytes: c.Store.MaxSize / 8, Full: session.DropOldest}}
	}
	return rooms
}

// bridgeSession is the client identifier of a lane of a bridge in the broker.
func bridgeSession(name string, lane int) string {
	id := "$bridge/" + name
	if lane > 0 {
		id += "/live/" + strconv.Itoa(lane)
	}
	return id
}

func quota(q config.Queue, full string) session.Quota {
	policies := map[string]session.Policy{
		"drop_newest": session.DropNewest, "drop_oldest": session.DropOldest, "refuse": session.Refuse,
	}
	return session.Quota{
		Messages: int64(q.Messages), Bytes: q.Size, Age: q.Age, Full: policies[cmp.Or(q.Full, full)],
	}
}
