// Drives the search page in Chromium over its debugging port: node --experimental-websocket browse.mjs CHROMIUM PROFILE URL [axe.min.js]
// Prints one line of JSON.
import fs from "node:fs";
import { opened, sleep, until } from "../support/chromium.mjs";

const [chromium, profile, url, axeFile] = process.argv.slice(2);
const asked = [];
const { browser, send, value } = await opened(chromium, profile, (data) => {
  if (data.method === "Network.requestWillBeSent") asked.push(data.params.request.url);
});
const results = () => until(() => value(`/^\\d+ results? /.test(document.getElementById("status").textContent) && document.querySelectorAll("#results > li").length`));
const found = { axe: {}, overflow: [] };
await send("Network.enable");
for (const scheme of ["light", "dark"]) for (const width of [1280, 390]) {
  await send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
  await send("Emulation.setDeviceMetricsOverride", { width, height: 850, deviceScaleFactor: 1, mobile: width < 500 });
  await send("Page.navigate", { url });
  await sleep(300);
  found.tiles = await results();
  found.overflow.push(await value("document.documentElement.scrollWidth > innerWidth"));
  if (axeFile) {
    await value(fs.readFileSync(axeFile, "utf8") + ";0");
    found.axe[`${scheme} ${width}`] = JSON.parse(await value(`axe.run().then((r) => JSON.stringify(r.violations.map((v) => v.id)))`));
  }
}
const key = (name) => `document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "${name}", bubbles: true }));`;
found.focused = await value(`document.querySelector("#results > li").focus(); ${key("ArrowRight")} [...document.querySelectorAll("#results > li")].indexOf(document.activeElement)`);
await value(`${key("Enter")} 0`);
await until(() => value(`document.getElementById("status").textContent.includes("like the chosen one")`));
found.like = await value("location.search");
await value("history.back(); 0");
await until(() => value(`!location.search.includes("like") && !document.getElementById("status").textContent.includes("like the chosen one")`));
found.text = await value(`document.getElementById("text").value`);
await results();
await value(`(() => {
  const bytes = Uint8Array.from(atob(document.querySelector("#results img").src.split(",")[1]), (c) => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], "a.jpg", { type: "image/jpeg" }));
  document.getElementById("text").value = "";
  dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
  return 0;
})()`);
await until(() => value(`!document.getElementById("chosen").hidden`));
await sleep(300);
found.pasted = await results();
found.slash = await value(`document.querySelector("#results > li").focus(); ${key("/")} document.activeElement.id`);
found.elsewhere = asked.filter((one) => !one.startsWith(new URL(url).origin) && !one.startsWith("data:") && one !== "about:blank");
console.log(JSON.stringify(found));
browser.kill();
process.exit(0);
