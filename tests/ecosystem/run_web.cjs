// Runs graphs in onnxruntime-web's WebAssembly, as a browser does, and prints their outputs as JSON.
// node run_web.cjs PACKAGES REQUEST: PACKAGES holds node_modules; REQUEST is a JSON file.
const { createRequire } = require("node:module");
const fs = require("node:fs");

const ort = createRequire(process.argv[2] + "/package.json")("onnxruntime-web");
const request = JSON.parse(fs.readFileSync(process.argv[3], "utf8"));

async function main() {
  ort.env.wasm.numThreads = 1;
  const results = [];
  for (const { graph, input, output, type, dims, values } of request) {
    const session = await ort.InferenceSession.create(fs.readFileSync(graph), { executionProviders: ["wasm"] });
    const data = type === "int64" ? BigInt64Array.from(values.map(BigInt)) : Float32Array.from(values);
    const found = await session.run({ [input]: new ort.Tensor(type, data, dims) });
    results.push({ dims: found[output].dims, values: Array.from(found[output].data) });
  }
  process.stdout.write(JSON.stringify(results));
}

main().catch((error) => { console.error(error); process.exit(1); });
