// A real browser: headless Chromium, driven through playwright-core, on a page of PAGE; what the
// page's WebSocket saw of a server goes to standard output, one JSON object a line.
// Usage: browser.cjs URL SILENT_SECONDS PAGE PAGE_OF_ANOTHER_ORIGIN URL_OF_A_FULL_SERVER
'use strict';

const { chromium } = require('playwright-core');

const [url, silentSeconds, page, otherPage, fullUrl] = process.argv.slice(2);

// Nothing here may call home: the machine of a test has no network.
const args = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-dev-shm-usage',
];

// Runs inside the page.
async function visit([url, silentSeconds, fullUrl]) {
  const sixteenMib = 16 << 20;
  const event = (target, name) =>
    new Promise((resolve, reject) => {
      target.addEventListener(name, resolve, { once: true });
      if (name !== 'close') target.addEventListener('close', reject, { once: true });
    });
  const open = async () => {
    const ws = new WebSocket(url);
    ws.binaryType = 'arraybuffer';
    await event(ws, 'open');
    return ws;
  };
  const check = (condition, what) => {
    if (!condition) throw new Error(what);
  };
  const echoed = async (ws, message) => {
    const answered = event(ws, 'message');
    ws.send(message);
    const { data } = await answered;
    if (typeof message === 'string') return check(data === message, 'another text');
    const bytes = new Uint8Array(data);
    check(bytes.length === message.length, `${bytes.length} bytes`);
    check(bytes.every((byte, index) => byte === message[index]), 'other bytes');
  };

  const ws = await open();
  await echoed(ws, 'grüße, 世界, 🌊');
  await echoed(ws, '');
  await echoed(ws, Uint8Array.from({ length: 256 }, (_, index) => index));
  report('short');
  await echoed(ws, 'ü'.repeat(sixteenMib / 2));
  await echoed(ws, new Uint8Array(sixteenMib).map((_, index) => index * 7));
  report('long');
  // The browser answers the server's pings by itself; without, this would be too long.
  await new Promise((resolve) => setTimeout(resolve, silentSeconds * 1000));
  await echoed(ws, 'still here');
  report('stayed');
  const ended = event(ws, 'close');
  ws.close(1000);
  const { code, wasClean } = await ended;
  report('closed', { code, wasClean });

  const big = await open();
  const refused = event(big, 'close');
  big.send(new Uint8Array(sixteenMib + 1));
  const tooBig = await refused;
  report('too_big', { code: tooBig.code, reason: tooBig.reason, extensions: big.extensions });

  const full = await event(new WebSocket(fullUrl), 'close');
  report('full', { code: full.code, reason: full.reason });

  const last = await open();
  await echoed(last, 'one message');
  const texts = [];
  last.addEventListener('message', ({ data }) => texts.push(data));
  const told = event(last, 'close');
  report('waiting');
  const close = await told;
  report('told', { texts, code: close.code, reason: close.reason, wasClean: close.wasClean });
}

// Runs inside a page from elsewhere.
function isRefused(url) {
  return new Promise((resolve) => {
    const ws = new WebSocket(url);
    ws.onopen = () => resolve(false);
    ws.onclose = ({ code }) => resolve(code === 1006);
  });
}

async function main() {
  const executablePath = process.env.CHROMIUM || '/usr/bin/chromium';
  const browser = await chromium.launch({ executablePath, args, headless: true });
  try {
    const tab = await browser.newPage();
    const report = (step, what = {}) => console.log(JSON.stringify({ step, ...what }));
    await tab.exposeFunction('report', report);
    await tab.goto(otherPage);
    report('other_origin', { refused: await tab.evaluate(isRefused, url) });
    await tab.goto(page);
    await tab.evaluate(visit, [url, Number(silentSeconds), fullUrl]);
  } finally {
    await browser.close();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
