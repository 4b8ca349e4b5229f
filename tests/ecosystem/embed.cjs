// Opens a bundle with transformers.js and prints the embeddings of raw pixels and texts as JSON.
// node embed.cjs PACKAGES REQUEST: PACKAGES holds node_modules; REQUEST is a JSON file.
const { createRequire } = require("node:module");
const { dirname, basename } = require("node:path");
const fs = require("node:fs");

const js = createRequire(process.argv[2] + "/package.json")("@huggingface/transformers");
const request = JSON.parse(fs.readFileSync(process.argv[3], "utf8"));

async function main() {
  js.env.allowRemoteModels = false;
  js.env.localModelPath = dirname(request.bundle);
  const name = basename(request.bundle);
  const options = { dtype: request.dtype, device: "cpu" };
  const tokenizer = await js.AutoTokenizer.from_pretrained(name);
  const processor = await js.AutoProcessor.from_pretrained(name);
  const vision = await js[request.vision].from_pretrained(name, options);
  const text = await js[request.text].from_pretrained(name, options);
  const images = request.images.map((rows) => new js.RawImage(new Uint8ClampedArray(rows), request.side, request.side, 3));
  const tokens = tokenizer(request.texts, { padding: request.padding, max_length: request.max_length, truncation: true });
  const seen = await vision(await processor(images));
  const read = await text({ input_ids: tokens.input_ids });
  const result = { images: seen[request.image_output].tolist(), texts: read[request.text_output].tolist() };
  process.stdout.write(JSON.stringify(result));
}

main().catch((error) => { console.error(error); process.exit(1); });
