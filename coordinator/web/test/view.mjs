// Pages of reports in files, as they open from a mail or a disk. COLOD_PAGES are their paths, one a line; a picture has the
// name of its page.

import { basename } from "node:path";
import { pathToFileURL } from "node:url";
import { ask, inBrowser } from "./browser.mjs";

await inBrowser(async (open) => {
  for (const path of process.env.COLOD_PAGES.split("\n")) {
    const url = pathToFileURL(path).href;
    const name = basename(path, ".html");
    const tab = await open(url);
    await tab.until(`document.querySelector("h1") && document.querySelectorAll("h2").length > 2`);
    const seen = await tab.page.evaluate(`({
      details: document.querySelectorAll("details").length, marks: document.querySelectorAll("mark").length,
      rows: document.querySelectorAll("table.all tbody tr").length, bars: document.querySelectorAll("svg rect").length,
      scripts: document.scripts.length })`);
    await tab.picture(name, false);
    // A link of the table opens what it names.
    const link = tab.page.locator("table.all a").first();
    const id = (await link.getAttribute("href")).slice(1);
    await link.evaluate((a) => a.click());
    await tab.until(`location.hash === "#${id}" && document.getElementById("${id}").getBoundingClientRect().top < innerHeight`);
    await ask("seen", JSON.stringify({ name, ...seen }));
    tab.clean(url);
    await tab.page.close();
  }
});
