// Looks at a page in Chromium over its debugging port: node --experimental-websocket look.mjs CHROMIUM PROFILE FILE-URL [axe.min.js]
// On a desktop and on a phone, light and dark, and as it is printed. Prints one line of JSON.
import fs from "node:fs";
import { opened, sleep, until } from "../support/chromium.mjs";

const [chromium, profile, url, axeFile] = process.argv.slice(2);
const found = { axe: {}, overflow: [], broken: 0, elsewhere: [], console: [] };
const { browser, send, value } = await opened(chromium, profile, (data) => {
  const asked = data.method === "Network.requestWillBeSent" ? data.params.request.url : url;
  if (asked !== url && !asked.startsWith("data:")) found.elsewhere.push(asked);
  if (["Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"].includes(data.method)) found.console.push(JSON.stringify(data.params));
});
for (const domain of ["Network", "Runtime", "Log", "Page"]) await send(`${domain}.enable`);
for (const media of ["light", "dark", "print"]) for (const width of media === "print" ? [760] : [1280, 390]) {
  await send("Emulation.setEmulatedMedia", { media: media === "print" ? "print" : "screen", features: [{ name: "prefers-color-scheme", value: media === "light" ? "light" : "dark" }] });
  await send("Emulation.setDeviceMetricsOverride", { width, height: 850, deviceScaleFactor: 1, mobile: width < 500 });
  await send("Page.navigate", { url });
  await sleep(300);
  await until(() => value("document.readyState === 'complete'"));
  found.overflow.push(await value("document.documentElement.scrollWidth > innerWidth"));
  found.broken += await value("[...document.images].filter((one) => !(one.complete && one.naturalWidth)).length");
  if (axeFile) {
    await value(fs.readFileSync(axeFile, "utf8") + ";0");
    found.axe[`${media} ${width}`] = JSON.parse(await value("axe.run().then((r) => JSON.stringify(r.violations.map((v) => [v.id, v.nodes[0].html])))"));
  }
}
found.images = await value("document.images.length");
found.paper = await value("getComputedStyle(document.body).backgroundColor");
found.navigation = await value("getComputedStyle(document.querySelector('nav')).display");
console.log(JSON.stringify(found));
browser.kill();
process.exit(0);
