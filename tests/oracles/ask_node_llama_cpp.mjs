// Ask node-llama-cpp for a greedy continuation: node ask.mjs FILE '[token ids]' COUNT TEXT; prints JSON.
import {getLlama} from "node-llama-cpp";

const [file, prompt, count, text] = process.argv.slice(2);
const llama = await getLlama({gpu: false, build: "never", skipDownload: true, logLevel: "error"});
const model = await llama.loadModel({modelPath: file});
const context = await model.createContext({contextSize: 512, threads: 1});
const tokens = [];
const options = {temperature: 0, yieldEogToken: true};
for await (const token of context.getSequence().evaluate(JSON.parse(prompt), options)) {
  tokens.push(token);
  if (model.isEogToken(token) || tokens.length >= Number(count)) break;
}
console.log(JSON.stringify({tokens, text: model.detokenize(tokens), ids: model.tokenize(text)}));
process.exit(0);
