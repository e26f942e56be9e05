// The pages of a real pair's two nodes, as a tunnel to their sockets shows them: live values under load, the reports, and a
// failover as it happens. COLOD_SPEAKER and COLOD_OTHER are the pages, COLOD_PAIR and COLOD_OTHER_NODE the names.

import { ask, check, inBrowser, LATER, note } from "./browser.mjs";

const { COLOD_SPEAKER: speaker, COLOD_OTHER: other, COLOD_OTHER_NODE: otherNode } = process.env;
const text = (id) => `document.getElementById("${id}").textContent`;

await inBrowser(async (open) => {
  const here = await open(speaker);
  const there = await open(other);
  for (const tab of [here, there]) {
    await tab.until(`${text("live")} === "live"`);
    await tab.until(`["protected", "checkpointing"].includes(${text("pair-state")})`);
  }

  // Live: frames leave while one looks, and the lines of the charts grow.
  const released = `Number(/Released([\\d.]+)/.exec(${text("facts")})?.[1] ?? 0)`;
  await here.until(`${released} > 0`);
  const before = await here.page.textContent("#facts");
  await here.until(`${text("facts")} !== ${JSON.stringify(before)}`);
  await here.until(`document.querySelector(".chart .line0").getAttribute("d").length > 40`);

  // Reports, with what an operator can do about them.
  await here.until(`document.querySelectorAll("#reports tbody tr").length > 3 && document.querySelectorAll("#causes .bar").length > 1`);
  const causes = await here.page.locator("#causes").innerText();
  const provoked = (await ask("causes")).split(" ");
  const named = provoked.filter((cause) => causes.includes(cause)); // the page shows the commonest
  check(named.length >= Math.min(3, provoked.length), `the page names ${causes}, and of ${provoked} only ${named}`);
  const rows = await here.page.locator("#reports tbody").innerText();
  check(/byte \d+/.test(rows) && /\d ms/.test(rows), `no position or no cost in ${rows}`);
  await here.picture("live");

  // A failover as it happens: all states that the page shows on the way.
  await there.page.evaluate(() => {
    window.states = [];
    const pill = document.getElementById("pair-state");
    const see = () => { if (window.states.at(-1) !== pill.textContent) window.states.push(pill.textContent); };
    new MutationObserver(see).observe(pill, { childList: true, characterData: true, subtree: true });
    see();
  });
  await ask("kill");
  for (const tab of [here, there]) {
    await tab.until(`[...document.querySelectorAll("#roles .node")].some((n) => n.textContent.startsWith("${otherNode}") && n.textContent.includes("speaker"))`, LATER);
  }
  await there.picture("takeover");
  await there.until(`["protected", "checkpointing"].includes(${text("pair-state")}) && /promoting|solo/.test(${text("events")})`, LATER);
  await there.picture("afterwards");
  const states = await there.page.evaluate("window.states");
  await note(`the page showed ${states.join(", ")}`);
  check(states.some((s) => !["protected", "checkpointing"].includes(s)), `the page showed nothing of the failover: ${states}`);
  const events = await there.page.locator("#events tbody").innerText();
  check(events.includes("solo"), `no takeover among the events: ${events}`);

  here.clean(speaker, 10);
  there.clean(other, 10);
});
