// Logs in with MQTT.js by SCRAM-SHA-256, made of Node's own cryptography, checks that the server
// knows the user too, and prints "well".
// node scram.mjs URL USER PASSWORD
import { createHash, createHmac, pbkdf2Sync, randomBytes } from "node:crypto";
import { createRequire } from "node:module";

const mqtt = createRequire(process.env.MQTTJS)("mqtt");
const [url, user, password] = process.argv.slice(2);
const hmac = (key, text) => createHmac("sha256", key).update(text).digest();

const method = "SCRAM-SHA-256";
const nonce = randomBytes(18).toString("base64");
const first = `n=${user},r=${nonce}`;
let signature; // that the server has to show

function answer(challenge) {
  const { r, s, i } = Object.fromEntries(challenge.split(",").map((a) => [a[0], a.slice(2)]));
  if (!r.startsWith(nonce)) throw new Error("not our nonce");
  const salted = pbkdf2Sync(password, Buffer.from(s, "base64"), Number(i), 32, "sha256");
  const last = `c=biws,r=${r}`;
  const text = `${first},${challenge},${last}`;
  const key = hmac(salted, "Client Key");
  const mask = hmac(createHash("sha256").update(key).digest(), text);
  signature = "v=" + hmac(hmac(salted, "Server Key"), text).toString("base64");
  return `${last},p=${Buffer.from(key.map((b, n) => b ^ mask[n])).toString("base64")}`;
}

const client = mqtt.connect(url, {
  protocolVersion: 5,
  reconnectPeriod: 0,
  connectTimeout: 5000,
  properties: { authenticationMethod: method, authenticationData: Buffer.from("n,," + first) },
});
client.handleAuth = (packet, done) =>
  done(null, {
    cmd: "auth",
    reasonCode: 0x18,
    properties: { authenticationMethod: method, authenticationData: Buffer.from(answer(String(packet.properties.authenticationData))) },
  });
client.on("error", (err) => {
  console.log(err.message);
  process.exit(1);
});
client.on("connect", async (connack) => {
  if (String(connack.properties.authenticationData) !== signature) {
    console.log("the server does not know the user");
    process.exit(1);
  }
  await client.publishAsync("mqttjs/" + process.pid, "x", { qos: 1 });
  await client.endAsync();
  console.log("well");
});
