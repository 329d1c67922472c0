package packet

import "fmt"

// A ReasonCode tells the result of an operation (5.0, 2.4). Codes from 0x80 are failures.
type ReasonCode byte

// The reason codes of MQTT 5.0.
const (
	Success                     ReasonCode = 0x00 // also Normal disconnection, Granted QoS 0
	GrantedQoS1                 ReasonCode = 0x01
	GrantedQoS2                 ReasonCode = 0x02
	DisconnectWithWill          ReasonCode = 0x04
	NoMatchingSubscribers       ReasonCode = 0x10
	NoSubscriptionExisted       ReasonCode = 0x11
	ContinueAuthentication      ReasonCode = 0x18
	Reauthenticate              ReasonCode = 0x19
	UnspecifiedError            ReasonCode = 0x80
	MalformedPacket             ReasonCode = 0x81
	ProtocolError               ReasonCode = 0x82
	ImplementationSpecificError ReasonCode = 0x83
	UnsupportedProtocolVersion  ReasonCode = 0x84
	ClientIDNotValid            ReasonCode = 0x85
	BadUserNameOrPassword       ReasonCode = 0x86
	NotAuthorized               ReasonCode = 0x87
	ServerUnavailable           ReasonCode = 0x88
	ServerBusy                  ReasonCode = 0x89
	Banned                      ReasonCode = 0x8A
	ServerShuttingDown          ReasonCode = 0x8B
	BadAuthenticationMethod     ReasonCode = 0x8C
	KeepAliveTimeout            ReasonCode = 0x8D
	SessionTakenOver            ReasonCode = 0x8E
	TopicFilterInvalid          ReasonCode = 0x8F
	TopicNameInvalid            ReasonCode = 0x90
	PacketIDInUse               ReasonCode = 0x91
	PacketIDNotFound            ReasonCode = 0x92
	ReceiveMaximumExceeded      ReasonCode = 0x93
	TopicAliasInvalid           ReasonCode = 0x94
	PacketTooLarge              ReasonCode = 0x95
	MessageRateTooHigh          ReasonCode = 0x96
	QuotaExceeded               ReasonCode = 0x97
	AdministrativeAction        ReasonCode = 0x98
	PayloadFormatInvalid        ReasonCode = 0x99
	RetainNotSupported          ReasonCode = 0x9A
	QoSNotSupported             ReasonCode = 0x9B
	UseAnotherServer            ReasonCode = 0x9C
	ServerMoved                 ReasonCode = 0x9D
	SharedNotSupported          ReasonCode = 0x9E
	ConnectionRateExceeded      ReasonCode = 0x9F
	MaximumConnectTime          ReasonCode = 0xA0
	SubscriptionIDNotSupported  ReasonCode = 0xA1
	WildcardNotSupported        ReasonCode = 0xA2
)

// Failed reports whether the code tells of a failure.
func (r ReasonCode) Failed() bool { return r >= 0x80 }

var reasonNames = [...]string{
	Success:                     "Success",
	GrantedQoS1:                 "Granted QoS 1",
	GrantedQoS2:                 "Granted QoS 2",
	DisconnectWithWill:          "Disconnect with Will Message",
	NoMatchingSubscribers:       "No matching subscribers",
	NoSubscriptionExisted:       "No subscription existed",
	ContinueAuthentication:      "Continue authentication",
	Reauthenticate:              "Re-authenticate",
	UnspecifiedError:            "Unspecified error",
	MalformedPacket:             "Malformed Packet",
	ProtocolError:               "Protocol Error",
	ImplementationSpecificError: "Implementation specific error",
	UnsupportedProtocolVersion:  "Unsupported Protocol Version",
	ClientIDNotValid:            "Client Identifier not valid",
	BadUserNameOrPassword:       "Bad User Name or Password",
	NotAuthorized:               "Not authorized",
	ServerUnavailable:           "Server unavailable",
	ServerBusy:                  "Server busy",
	Banned:                      "Banned",
	ServerShuttingDown:          "Server shutting down",
	BadAuthenticationMethod:     "Bad authentication method",
	KeepAliveTimeout:            "Keep Alive timeout",
	SessionTakenOver:            "Session taken over",
	TopicFilterInvalid:          "Topic Filter invalid",
	TopicNameInvalid:            "Topic Name invalid",
	PacketIDInUse:               "Packet Identifier in use",
	PacketIDNotFound:            "Packet Identifier not found",
	ReceiveMaximumExceeded:      "Receive Maximum exceeded",
	TopicAliasInvalid:           "Topic Alias invalid",
	PacketTooLarge:              "Packet too large",
	MessageRateTooHigh:          "Message rate too high",
	QuotaExceeded:               "Quota exceeded",
	AdministrativeAction:        "Administrative action",
	PayloadFormatInvalid:        "Payload format invalid",
	RetainNotSupported:          "Retain not supported",
	QoSNotSupported:             "QoS not supported",
	UseAnotherServer:            "Use another server",
	ServerMoved:                 "Server moved",
	SharedNotSupported:          "Shared Subscriptions not supported",
	ConnectionRateExceeded:      "Connection rate exceeded",
	MaximumConnectTime:          "Maximum connect time",
	SubscriptionIDNotSupported:  "Subscription Identifiers not supported",
	WildcardNotSupported:        "Wildcard Subscriptions not supported",
}

// String returns the name that the standard gives the code.
func (r ReasonCode) String() string {
	if int(r) < len(reasonNames) && reasonNames[r] != "" {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason code 0x%02X", byte(r))
}

// returnCodes are the reason codes that the return codes of a 3.x CONNACK stand for.
var returnCodes = [...]ReasonCode{
	Success, UnsupportedProtocolVersion, ClientIDNotValid, ServerUnavailable,
	BadUserNameOrPassword, NotAuthorized,
}

// ReturnCode returns the return code of a 3.x CONNACK that comes closest (3.1.1, 3.2.2.3): 3,
// server unavailable, for a failure that 3.1.1 has no word for.
func (r ReasonCode) ReturnCode() byte {
	switch r {
	case UnsupportedProtocolVersion:
		return 1
	case ClientIDNotValid:
		return 2
	case BadUserNameOrPassword, BadAuthenticationMethod:
		return 4
	case NotAuthorized, Banned:
		return 5
	}
	if r.Failed() {
		return 3
	}
	return 0
}

// reason reads a reason code that a packet type can have.
func (r *reader) reason(t Type, clause string) ReasonCode {
	code := ReasonCode(r.byte("reason code"))
	if !code.of(t) {
		r.fail(protocolError(clause, t.String()+" with "+code.String()))
	}
	return code
}

// of reports whether a packet type, one that has reason codes, can carry this one (5.0, 2.4).
func (r ReasonCode) of(t Type) bool {
	switch r {
	case Success:
		return true
	case GrantedQoS1, GrantedQoS2:
		return t == SUBACK
	case DisconnectWithWill:
		return t == DISCONNECT
	case NoMatchingSubscribers:
		return t == PUBACK || t == PUBREC
	case NoSubscriptionExisted:
		return t == UNSUBACK
	case ContinueAuthentication, Reauthenticate:
		return t == AUTH
	case UnspecifiedError, ImplementationSpecificError, NotAuthorized:
		return t != PUBREL && t != PUBCOMP && t != AUTH
	case MalformedPacket, ProtocolError, ServerBusy, BadAuthenticationMethod, PacketTooLarge,
		RetainNotSupported, QoSNotSupported, UseAnotherServer, ServerMoved, ConnectionRateExceeded:
		return t == CONNACK || t == DISCONNECT
	case UnsupportedProtocolVersion, ClientIDNotValid, BadUserNameOrPassword, ServerUnavailable, Banned:
		return t == CONNACK
	case ServerShuttingDown, KeepAliveTimeout, SessionTakenOver, ReceiveMaximumExceeded,
		TopicAliasInvalid, MessageRateTooHigh, AdministrativeAction, MaximumConnectTime:
		return t == DISCONNECT
	case TopicFilterInvalid:
		return t == SUBACK || t == UNSUBACK || t == DISCONNECT
	case TopicNameInvalid, PayloadFormatInvalid:
		return t == CONNACK || t == PUBACK || t == PUBREC || t == DISCONNECT
	case PacketIDInUse:
		return t == PUBACK || t == PUBREC || t == SUBACK || t == UNSUBACK
	case PacketIDNotFound:
		return t == PUBREL || t == PUBCOMP
	case QuotaExceeded:
		return t == CONNACK || t == PUBACK || t == PUBREC || t == SUBACK || t == DISCONNECT
	case SharedNotSupported, SubscriptionIDNotSupported, WildcardNotSupported:
		return t == SUBACK || t == DISCONNECT
	}
	return false
}
