// A page in headless Chromium, driven over its debugging port: Node's own WebSocket, and no library.
import { spawn } from "node:child_process";
import fs from "node:fs";

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export async function until(work) {
  for (let i = 0; i < 150; i++) {
    try { const value = await work(); if (value) return value; } catch { /* not yet */ }
    await sleep(200);
  }
  throw new Error("waited in vain");
}

// Starts the browser; `heard` gets every message of the page that answers nothing.
export async function opened(chromium, profile, heard) {
  const browser = spawn(chromium, ["--headless=new", "--no-sandbox", "--disable-gpu", `--user-data-dir=${profile}`, "--remote-debugging-port=0", "about:blank"], { stdio: "ignore" });
  const port = await until(() => fs.readFileSync(`${profile}/DevToolsActivePort`, "utf8").split("\n")[0]);
  const page = await until(async () => (await (await fetch(`http://127.0.0.1:${port}/json`)).json()).find((one) => one.type === "page"));
  const socket = new WebSocket(page.webSocketDebuggerUrl);
  await new Promise((done) => { socket.onopen = done; });
  let count = 0;
  const waiting = {};
  socket.onmessage = (message) => {
    const data = JSON.parse(message.data);
    if (data.id) waiting[data.id](data); else heard(data);
  };
  const send = (method, params = {}) => new Promise((done) => { waiting[++count] = done; socket.send(JSON.stringify({ id: count, method, params })); });
  async function value(expression) {
    const answer = await send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (answer.result.exceptionDetails) throw new Error(JSON.stringify(answer.result.exceptionDetails));
    return answer.result.result.value;
  }
  return { browser, send, value };
}
