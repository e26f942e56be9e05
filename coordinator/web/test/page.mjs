// The page of a node over TLS: signing in, roles, values that change, divergences, an operation, a failover as it happens,
// and hostile words. COLOD_URL is the page; the tokens are in COLOD_READ and COLOD_OPERATE.

import { ask, check, inBrowser } from "./browser.mjs";

const { COLOD_URL: url, COLOD_READ: readToken, COLOD_OPERATE: operateToken } = process.env;

await inBrowser(async (open) => {
  const tab = await open(url);
  const { page } = tab;
  const text = (id) => `document.getElementById("${id}").textContent`;
  const signIn = async (token) => {
    await tab.until(`!document.getElementById("login").hidden`);
    await page.fill("#token", token);
    await page.click("#login-form button");
    await tab.until(`${text("live")} === "live"`);
  };
  await tab.until(`${text("live")} === "not signed in"`);
  await tab.picture("login");

  // To look is not to operate.
  await signIn(readToken);
  await tab.until(`${text("who")} === "viewer, may read"`);
  await tab.until(`${text("pair-state")} === "protected"`);
  await tab.until(`document.getElementById("actions").hidden`);
  await tab.until(`document.querySelectorAll("#events tbody tr").length > 0`);

  // Values change.
  const first = await page.textContent("#facts");
  await tab.until(`${text("facts")} !== ${JSON.stringify(first)}`);
  await tab.until(`document.querySelector(".chart .line0").getAttribute("d").length > 20`);

  // Divergences and their reports.
  await ask("diverge", "12");
  await tab.until(`document.querySelectorAll("#divergences .bar").length > 1`);
  await tab.until(`document.querySelectorAll("#reports tbody tr").length > 0`);
  await ask("protected");

  // Out, and in again with the other role.
  await page.click("#leave");
  await signIn(operateToken);
  await tab.until(`!document.getElementById("actions").hidden`);
  await tab.until(`document.querySelectorAll("#reports tbody tr").length > 0 && document.querySelectorAll("#causes .bar").length > 0`);
  await page.click("#actions button:text-is('Checkpoint')");
  await tab.until(`document.getElementById("confirm").open`);
  await tab.picture("confirm");
  await page.click("#confirm-yes");
  await tab.until(`${text("action-outcome")}.startsWith("Checkpoint: done")`);

  await tab.picture("light");
  await page.emulateMedia({ colorScheme: "dark" });
  await tab.picture("dark");
  await page.setViewportSize({ width: 420, height: 900 });
  await tab.picture("narrow");
  await page.setViewportSize({ width: 1280, height: 900 });
  await page.emulateMedia({ colorScheme: "light" });

  // A failover, with a reason that is not to become markup or more.
  await ask("fail", "<img src=x onerror=alert(1)>\x1b[31m\u202e<script>alert(2)</script>");
  await tab.until(`[...document.querySelectorAll("#roles .node")].some((n) => n.textContent.startsWith("b") && n.textContent.includes("speaker"))`);
  await tab.until(`${text("events")}.includes("<img src=x")`);
  await ask("protected again");
  await tab.until(`${text("pair-state")} === "protected"`);
  await tab.picture("failover");
  check(await page.locator("main img, main script, table img").count() === 0, "a reason became markup");
  check(!(await page.textContent("body")).includes("\u202e"), "a reason turns the text around");
  tab.clean(url, 10);

  // The node goes away, and the page says so.
  await ask("stop");
  await tab.until(`${text("live")} === "not answering"`);
});
