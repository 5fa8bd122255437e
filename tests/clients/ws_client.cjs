// A client made with npm's `ws`: what it saw of a server goes to standard output, one JSON object
// a line. Usage: ws_client.cjs URL SILENT_SECONDS
'use strict';

const assert = require('node:assert');
const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const WebSocket = require('ws');

const SIXTEEN_MIB = 16 << 20;
const [url, silentSeconds] = process.argv.slice(2);

function report(step, what = {}) {
  console.log(JSON.stringify({ step, ...what }));
}

async function open() {
  const ws = new WebSocket(url);
  await once(ws, 'open');
  return ws;
}

// Sends the parts as one message; expects them back in one piece.
async function echoed(ws, parts) {
  const answered = once(ws, 'message');
  const binary = Buffer.isBuffer(parts[0]);
  parts.forEach((part, index) => ws.send(part, { fin: index === parts.length - 1, binary }));
  const [data, isBinary] = await answered;
  assert.strictEqual(isBinary, binary);
  assert(data.equals(Buffer.concat(parts.map((part) => Buffer.from(part)))), `${data.length} others`);
}

async function main() {
  const ws = await open();
  let pings = 0;
  ws.on('ping', () => pings++);
  await echoed(ws, ['grüße, 世界, 🌊']);
  await echoed(ws, ['']);
  await echoed(ws, [Buffer.from(Array.from({ length: 256 }, (_, index) => index))]);
  report('short');
  await echoed(ws, ['grü', '', 'ße, ', '🌊']);
  await echoed(ws, [Buffer.from([0, 1]), Buffer.from([2])]);
  report('fragmented');
  await echoed(ws, ['ü'.repeat(SIXTEEN_MIB / 2)]);
  await echoed(ws, [Buffer.alloc(SIXTEEN_MIB, 'tide')]);
  report('long');
  const ponged = once(ws, 'pong');
  ws.ping('are you there');
  assert.strictEqual(String((await ponged)[0]), 'are you there');
  report('ping_answered');
  // The library answers the server's pings by itself; without, this would be too long.
  await sleep(Number(silentSeconds) * 1000);
  await echoed(ws, ['still here']);
  report('stayed', { pings });
  ws.close(1000);
  report('closed', { code: (await once(ws, 'close'))[0] });

  const last = await open();
  await echoed(last, ['one message']);
  const texts = [];
  last.on('message', (data, isBinary) => texts.push(isBinary ? null : String(data)));
  const closed = once(last, 'close');
  report('waiting');
  report('told', { texts, code: (await closed)[0] });
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
