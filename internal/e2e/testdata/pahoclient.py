"""Connects with Paho, sends messages to itself at each quality of service, and prints "well".

pahoclient.py URL VERSION [CA [CERT KEY]]
"""

import os
import sys
import threading
import urllib.parse

import paho.mqtt.client as mqtt

url, version = urllib.parse.urlsplit(sys.argv[1]), int(sys.argv[2])
ca, cert, key = (sys.argv[3:] + [None] * 3)[:3]
settings = {
    "client_id": f"paho-{os.getpid()}",
    "protocol": version,
    "transport": "websockets" if url.scheme.startswith("ws") else "tcp",
}
if hasattr(mqtt, "CallbackAPIVersion"):  # since 2.0
    settings["callback_api_version"] = mqtt.CallbackAPIVersion.VERSION2
client = mqtt.Client(**settings)
if ca:
    client.tls_set(ca, cert, key)
if url.path:
    client.ws_set_options(path=url.path)

topic = f"matrix/paho/{os.getpid()}"
wanted = [(qos, bytes([qos + 1]) * size) for size in (0, 100, 70_000) for qos in (0, 1, 2)]
got = []
subscribed, complete = threading.Event(), threading.Event()


def on_message(_client, _userdata, message):
    got.append((message.qos, bytes(message.payload)))
    if len(got) == len(wanted):
        complete.set()


client.on_connect = lambda *_: client.subscribe(topic, 2)
client.on_subscribe = lambda *_: subscribed.set()
client.on_message = on_message
client.connect(url.hostname, url.port)
client.loop_start()
if not subscribed.wait(5):
    sys.exit("no SUBACK")
for qos, payload in wanted:
    client.publish(topic, payload, qos)
complete.wait(5)
client.disconnect()
client.loop_stop()
# Paho hands out a message at QoS 2 when it is released, behind later ones at QoS 0 and 1.
in_order = all([m for m in got if m[0] == qos] == [m for m in wanted if m[0] == qos] for qos in (0, 1, 2))
print("well" if in_order and len(got) == len(wanted) else f"{len(got)} messages of {len(wanted)}, or others")
