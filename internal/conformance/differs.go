package conformance

// differs are the tests in which mosquitto 2.0.11 does otherwise, by name with or without the
// version of the protocol, and what it does.
var differs = map[string]string{
	"TestOverlap/3.1.1":                                            "sends one copy, at the QoS of the subscription that it finds first, against [MQTT-3.3.5-1]",
	"TestWillDelayBeyondSession":                                   "waits for the will delay when the session has ended before, against [MQTT-3.1.2-8]",
	"TestPrivateClientIdentifier":                                  "accepts every client identifier",
	"TestReceiveMaximum":                                           "counts a QoS 2 message as done at PUBREC, against [MQTT-3.3.4-9]",
	"TestReceiveMaximumAtResume":                                   "sends again all that was on its way, whatever the new connection takes, against [MQTT-3.3.4-9]",
	"TestReceiveMaximumOfServer":                                   "answers the message that is one too many with PUBREC 0x97 and goes on, where a DISCONNECT is recommended",
	"TestMaximumPacketSize":                                        "leaves the first byte of a packet out when it counts, against [MQTT-3.1.2-24]",
	"TestMaximumPacketSizeOfServer":                                "leaves the fixed header out when it counts",
	"TestExpiryOfSentMessage":                                      "drops an expired message that it has sent, against [MQTT-4.3.3-7]",
	"TestUnknownPubrel/5.0":                                        "answers without a reason, which the standard allows",
	"TestResponseInformation":                                      "has none to give, which the standard allows",
	"TestInvalidFilter/5.0":                                        "takes what is no shared subscription for a name that begins with $share, against [MQTT-4.8.2-1]",
	"TestSharedGetsNoRetained":                                     "sends retained messages to members of groups, against section 3.3.1.3",
	"TestBadPublish/DUP_at_QoS_0":                                  "ignores DUP at QoS 0",
	"TestBadProperties/Payload_Format_2":                           "forwards the value unseen",
	"TestBadProperties/Response_Topic_with_+":                      "forwards the topic unseen",
	"TestBadProperties/Response_Topic_with_#":                      "forwards the topic unseen",
	"TestBadProperties/Subscription_Identifier_of_a_client":        "ignores the property",
	"TestBadProperties/No_Local_on_a_shared_subscription":          "ignores the option, against [MQTT-3.8.3-4]",
	"TestBadProperties/PUBACK_with_a_code_of_CONNACK":              "takes any code",
	"TestBadProperties/PUBREL_with_a_code_of_PUBACK":               "takes any code",
	"TestBadConnectProperties/Authentication_Data_without_method":  "ignores the data",
	"TestBadConnectProperties/Will_with_a_+_in_its_Response_Topic": "forwards the topic unseen",
	"TestFixedHeader/PUBACK_with_flags":                            "does not look at the flags, against [MQTT-2.1.3-1]",
	"TestFixedHeader/PUBREC_with_flags":                            "does not look at the flags, against [MQTT-2.1.3-1]",
	"TestFixedHeader/PUBCOMP_with_flags":                           "does not look at the flags, against [MQTT-2.1.3-1]",
	"TestFixedHeader/PINGREQ_with_flags":                           "does not look at the flags, against [MQTT-2.1.3-1]",
	"TestFixedHeader/PINGRESP":                                     "ignores what a client cannot send",
	"TestFixedHeader/3.1.1/SUBACK":                                 "ignores what a client cannot send",
	"TestFixedHeader/3.1.1/UNSUBACK":                               "ignores what a client cannot send",
}

// pending are the tests of what the gateway does not do yet, and why.
var pending = map[string]string{}
