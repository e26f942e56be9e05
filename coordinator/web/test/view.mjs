// A page of reports in a file, as it opens from a mail or a disk. COLOD_URL is its file address, COLOD_NAME its picture's.

import { ask, inBrowser } from "./browser.mjs";

await inBrowser(async (open) => {
  const tab = await open(process.env.COLOD_URL);
  await tab.until(`document.querySelector("h1") && document.querySelectorAll("h2").length > 2`);
  const seen = await tab.page.evaluate(`({
    details: document.querySelectorAll("details").length, marks: document.querySelectorAll("mark").length,
    rows: document.querySelectorAll("table.all tbody tr").length, bars: document.querySelectorAll("svg rect").length,
    scripts: document.scripts.length, text: document.body.innerText.length,
    wide: document.documentElement.scrollWidth > document.documentElement.clientWidth })`);
  await tab.picture(process.env.COLOD_NAME, false);
  // A link of the table opens what it names.
  const link = tab.page.locator("table.all a").first();
  if (await link.count() > 0) {
    const id = (await link.getAttribute("href")).slice(1);
    await link.click();
    await tab.until(`location.hash === "#${id}" && document.getElementById("${id}")`);
  }
  await ask("seen", JSON.stringify(seen));
  tab.clean(process.env.COLOD_URL);
});
