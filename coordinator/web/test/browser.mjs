// What the scripts here share: Chromium driven by Playwright, and the conversation with the Go test that started the
// script. The test gives the directory of the modules in COLOD_WEB_MODULES, Chromium in COLOD_CHROMIUM and the directory
// for pictures, if they are wanted, in COLOD_PICTURES. A script asks the test to do something by a line of JSON on its
// standard output and gets a line of JSON back.

import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";

const { chromium } = createRequire(join(process.env.COLOD_WEB_MODULES, "x"))("playwright-core");

// Bounds of waiting for what a page shows and for what a real pair does, in milliseconds. A busy machine is slow.
export const SOON = 120_000;
export const LATER = 240_000;

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

// ask lets the Go test do something and returns what it answers.
export async function ask(what, argument = "") {
  process.stdout.write(JSON.stringify({ ask: what, argument }) + "\n");
  const { value, done } = await answers.next();
  if (done) throw new Error(`${what}: the test does not answer`);
  const answer = JSON.parse(value);
  if (answer.error) throw new Error(`${what}: ${answer.error}`);
  return answer.value;
}

// note is for the test's log.
export const note = (text) => ask("note", text);

export function check(ok, text) {
  if (!ok) throw new Error(text);
}

// Tab is a page that keeps what it complained of and whom it called.
class Tab {
  constructor(page) {
    this.page = page;
    this.problems = [];
    this.requests = [];
    page.on("console", (m) => {
      if (["error", "warning", "assert"].includes(m.type())) this.problems.push(`console: ${m.text()} (${m.location().url})`);
    });
    page.on("pageerror", (e) => this.problems.push(`exception: ${e.stack}`));
    page.on("request", (r) => this.requests.push(r.url()));
  }

  // until waits for an expression to become true in the page. One that fails, as while the page is being loaded, is not true
  // yet. It is asked for from here: the page's policy forbids what Playwright's waitForFunction puts into it.
  async until(expression, limit = SOON) {
    for (const end = Date.now() + limit; Date.now() < end; await new Promise((done) => setTimeout(done, 50))) {
      try {
        if (await this.page.evaluate(`!!(${expression})`)) return;
      } catch (e) {
        if (this.page.isClosed()) throw e;
      }
    }
    throw new Error(`${expression} did not become true; the page complains of ${JSON.stringify(this.problems)} and shows ${await this.page.locator("body").innerText()}`);
  }

  async picture(name, whole = true) {
    const dir = process.env.COLOD_PICTURES;
    if (dir) await this.page.screenshot({ path: join(dir, `${name}.png`), fullPage: whole });
  }

  // clean fails when the page complained, or asked anybody but the one whom it came from.
  clean(from, least = 1) {
    check(this.problems.length === 0, `the page complains: ${this.problems.join("; ")}`);
    const foreign = this.requests.filter((u) => !u.startsWith(from) && !u.startsWith("data:"));
    check(foreign.length === 0, `the page asked ${foreign.join(", ")}`);
    check(this.requests.length >= least, `the page made ${this.requests.length} requests, want ${least} at least`);
  }
}

// inBrowser runs fn with a function that opens tabs, and ends Chromium and the script with an exit code.
export async function inBrowser(fn) {
  let browser;
  let code = 0;
  try {
    browser = await chromium.launch({
      executablePath: process.env.COLOD_CHROMIUM,
      timeout: SOON,
      args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync"],
    });
    await fn(async (url, options = {}) => {
      const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1280, height: 900 }, ...options });
      const tab = new Tab(await context.newPage());
      await tab.page.goto(url, { timeout: SOON });
      return tab;
    });
  } catch (e) {
    process.stderr.write(`${e.stack}\n`);
    code = 1;
  } finally {
    await browser?.close();
  }
  process.exit(code);
}
