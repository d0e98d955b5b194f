// openai's `ResponsesWS` plays agents: node responses_ws.mjs MODULES BASE_URL LANES
//
// LANES is JSON: an object from a lane's name (or "", the default lane) to its prompt. All lanes run at once on one
// socket, each answers its calls of `add` and continues its own chain. Prints one JSON object with what each said last
// and everything that was not an answer.
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [modules, baseURL, lanes] = process.argv.slice(2);
// Imports of ES modules do not look at NODE_PATH.
const require = createRequire(pathToFileURL(`${modules}/package.json`));
const { OpenAI } = require('openai');
const { ResponsesWS } = require('openai/resources/responses/ws');

const tool = {
  type: 'function',
  name: 'add',
  description: 'Add two numbers.',
  parameters: {
    type: 'object',
    properties: { a: { type: 'integer' }, b: { type: 'integer' } },
    required: ['a', 'b'],
    additionalProperties: false,
  },
  strict: true,
};
const prompts = JSON.parse(lanes);
const seen = { finals: {}, types: [], errors: [], texts: {} };
const socket = new ResponsesWS(new OpenAI({ apiKey: 'sk-test', baseURL }));

function create(lane, input, previous) {
  const body = { type: 'response.create', model: 'gpt-5.5', tools: [tool], input, store: false };
  if (previous) body.previous_response_id = previous;
  if (lane) body.stream_id = lane;
  socket.send(body);
}

function finish() {
  if (Object.keys(seen.finals).length + seen.errors.length >= Object.keys(prompts).length) socket.close();
}

socket.on('event', (event) => {
  if (!seen.types.includes(event.type)) seen.types.push(event.type);
});
socket.on('response.output_text.delta', (event) => {
  const lane = event.stream_id ?? '';
  seen.texts[lane] = (seen.texts[lane] ?? '') + event.delta;
});
socket.on('response.completed', (event) => {
  const lane = event.stream_id ?? '';
  const calls = event.response.output.filter((item) => item.type === 'function_call');
  if (calls.length === 0) {
    const message = event.response.output.find((item) => item.type === 'message');
    seen.finals[lane] = message.content.map((part) => part.text).join('');
    return finish();
  }
  const outputs = calls.map((call) => {
    const { a, b } = JSON.parse(call.arguments);
    return { type: 'function_call_output', call_id: call.call_id, output: String(a + b) };
  });
  create(lane, outputs, event.response.id);
});
socket.on('error', (error) => {
  const body = error.error?.error ?? {};
  seen.errors.push({ code: body.code ?? null, status: error.error?.status ?? null, message: error.message });
  finish();
});
socket.on('close', (code) => {
  console.log(JSON.stringify({ ...seen, code }));
});
for (const [lane, prompt] of Object.entries(prompts)) create(lane, prompt);
