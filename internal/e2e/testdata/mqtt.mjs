// Connects with MQTT.js, sends a message to itself at each quality of service, and prints "well".
// node mqtt.mjs URL VERSION [CA [CERT KEY]]
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const mqtt = createRequire(process.env.MQTTJS)("mqtt");
const [url, version, ca, cert, key] = process.argv.slice(2);
const read = (file) => file && readFileSync(file);
const options = {
  protocolVersion: Number(version),
  protocolId: version === "3" ? "MQIsdp" : "MQTT",
  reconnectPeriod: 0,
  connectTimeout: 5000,
  ca: read(ca),
  cert: read(cert),
  key: read(key),
};
if (options.protocolId === "MQIsdp") options.clientId = "mqttjs-" + process.pid;

const client = mqtt.connect(url, options);
client.on("error", (err) => {
  console.log(String(err));
  process.exit(1);
});
client.on("close", () => process.exit(1));

const topic = "matrix/mqttjs/" + process.pid;
const sizes = [0, 100, 70_000]; // the last is more than one frame of many clients
await client.subscribeAsync(topic, { qos: 2 });
const wanted = sizes.flatMap((size) => [0, 1, 2].map((qos) => ({ qos, payload: Buffer.alloc(size, qos + 1) })));
const all = new Promise((resolve, reject) => {
  let at = 0;
  client.on("message", (_, payload, packet) => {
    const want = wanted[at++];
    if (packet.qos !== want.qos || !payload.equals(want.payload)) reject(new Error("message " + at + " is another one"));
    if (at === wanted.length) resolve();
  });
});
for (const { qos, payload } of wanted) await client.publishAsync(topic, payload, { qos });
await all;
client.removeAllListeners("close");
await client.endAsync();
console.log("well");
