// What a reader sees of a report page: headless Chromium, driven through playwright-core, opens
// the file PAGE in light and dark, wide and as on a phone, and writes one JSON object a view to
// standard output. With a DIRECTORY it leaves a screenshot of each there.
// Usage: report_page.cjs PAGE [DIRECTORY]
'use strict';

const path = require('node:path');
const { chromium } = require('playwright-core');

const [page, directory] = process.argv.slice(2);
const views = [
  { name: 'light', colorScheme: 'light', viewport: { width: 1180, height: 900 } },
  { name: 'dark', colorScheme: 'dark', viewport: { width: 1180, height: 900 } },
  { name: 'phone', colorScheme: 'light', viewport: { width: 390, height: 844 } },
];

// Runs inside the page.
function look() {
  const plots = [...document.querySelectorAll('section')].map((section) => {
    const marks = section.querySelectorAll('svg path, svg polyline, svg rect, svg circle');
    return { title: section.querySelector('h2').textContent, marks: marks.length };
  });
  return {
    title: document.querySelector('h1').textContent,
    verdict: document.querySelector('.verdict').textContent,
    figures: document.querySelectorAll('.figure').length,
    background: getComputedStyle(document.body).backgroundColor,
    overflow: document.documentElement.scrollWidth - window.innerWidth,
    plots,
  };
}

async function main() {
  const executablePath = process.env.CHROMIUM || '/usr/bin/chromium';
  const args = ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run'];
  const browser = await chromium.launch({ executablePath, args, headless: true });
  try {
    for (const { name, ...view } of views) {
      const tab = await browser.newPage(view);
      const problems = [];
      tab.on('pageerror', (error) => problems.push(String(error)));
      tab.on('console', (message) => message.type() === 'error' && problems.push(message.text()));
      tab.on('request', (request) => {
        if (!request.url().startsWith('file:')) problems.push(`asks for ${request.url()}`);
      });
      await tab.goto(`file://${path.resolve(page)}`);
      await tab.waitForSelector('svg', { timeout: 30000 });
      const seen = await tab.evaluate(look);
      if (directory) {
        await tab.screenshot({ path: path.join(directory, `${name}.png`), fullPage: true });
      }
      console.log(JSON.stringify({ view: name, problems, ...seen }));
      await tab.close();
    }
  } finally {
    await browser.close();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
