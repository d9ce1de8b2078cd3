#!/usr/bin/env python3
"""Open reports in headless Chromium and look for what a reader would stumble over.

    bonfire report runs/a runs/b --out report.html
    python3 scripts/pictures/report_screens.py report.html [--out FOLDER]

Opens the page 1280 and 390 pixels wide, in light and in dark, and fails on anything the console says, on any request
for another file, on content wider than the window, on an empty chart, on a chart without a name or a table, on a table
that does not open, and on charts that do not follow the theme. --out keeps a picture of each view.

Chromium is $BONFIRE_CHROMIUM, or `chromium` or `google-chrome` on the PATH; without one the script says SKIPPED and
ends well. It is spoken to through a pipe, so Python's standard library is enough.
"""

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VIEWS = [("wide-light", 1280, "light"), ("wide-dark", 1280, "dark"), ("narrow-light", 390, "light"),
         ("narrow-dark", 390, "dark")]

# What is wrong with the page as it stands: a list of sentences.
LOOK = r"""
(() => {
  const wrong = [];
  const root = document.documentElement;
  if (root.dataset.drawn === undefined) wrong.push("the page's script did not come to its end");
  if (root.scrollWidth > innerWidth) {
    const wide = [...document.body.querySelectorAll("*")].filter((e) => e.getBoundingClientRect().right > innerWidth + 1
      && !e.closest(".scroll, .table, pre"));
    wrong.push(`the page is ${root.scrollWidth} pixels wide: ${wide.slice(0, 3).map((e) => e.tagName + "." + e.className)}`);
  }
  if (getComputedStyle(document.body).backgroundColor !== BACKGROUND) wrong.push("the theme is not that of the system");
  const canvases = [...document.querySelectorAll("canvas")];
  if (canvases.length === 0) wrong.push("there is no chart");
  if (canvases.length !== Number(root.dataset.drawn)) wrong.push("a chart was not drawn");
  for (const canvas of canvases) {
    const name = canvas.getAttribute("aria-label");
    if (!name || canvas.getAttribute("role") !== "img") wrong.push("a chart has no name");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const colours = new Set();
    for (let i = 0; i < data.length && colours.size < 3; i += 4) colours.add(data.slice(i, i + 4).join());
    if (colours.size < 3) wrong.push(`the chart "${name}" is empty`);
    const details = canvas.closest("figure").querySelector("details");
    if (!details) wrong.push(`the chart "${name}" has no table`);
  }
  return wrong;
})()
"""
# Opens every table and configuration.
OPEN = r"""
(async () => {
  document.querySelectorAll("details").forEach((d) => { d.open = true; });
  await new Promise((done) => setTimeout(done, 100));
  const empty = [...document.querySelectorAll("figure details")].filter((d) => !d.querySelector("tbody tr td"));
  const wrong = empty.map((d) => `the table of "${d.closest("figure").querySelector("h3").textContent}" is empty`);
  const root = document.documentElement;
  if (root.scrollWidth > innerWidth) wrong.push(`with tables open the page is ${root.scrollWidth} pixels wide`);
  document.querySelectorAll("details").forEach((d) => { d.open = false; });
  return wrong;
})()
"""
# Chooses the theme by the button, and gives the charts as they are then.
CHOOSE = r"""
(async () => {
  const button = document.getElementById("theme");
  for (let i = 0; i < 3 && !button.textContent.endsWith(THEME); i += 1) button.click();
  await new Promise((done) => setTimeout(done, 50));
  return [...document.querySelectorAll("canvas")].map((canvas) => canvas.toDataURL());
})()
"""
BACKGROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(14, 17, 22)"}


def chromium():
    named = os.environ.get("BONFIRE_CHROMIUM")
    return named or next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)


class Browser:
    """Headless Chromium, its debugging protocol on file descriptors 3 and 4, messages ended by zero bytes."""

    def __init__(self, path, profile):
        self.commands, commands = os.pipe()
        answers, self.answers = os.pipe()
        line = [path, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe",
                f"--user-data-dir={profile}", "--disable-dev-shm-usage", "--no-first-run"]
        # The shell puts the ends of the pipes where Chromium looks for them.
        shell = f'exec "$@" 3<&{self.commands} 4>&{self.answers}'
        self.process = subprocess.Popen(["bash", "-c", shell, "bash", *line], pass_fds=(self.commands, self.answers),
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(self.commands)
        os.close(self.answers)
        self.write, self.read = os.fdopen(commands, "wb", 0), os.fdopen(answers, "rb")
        self.number, self.session, self.events = 0, None, []

    def message(self):
        text = bytearray()
        while (byte := self.read.read(1)) != b"\0":
            if not byte:
                sys.exit("Chromium ended by itself")
            text += byte
        return json.loads(text)

    def call(self, method, **params):
        self.number += 1
        command = {"id": self.number, "method": method, "params": params}
        if self.session:
            command["sessionId"] = self.session
        self.write.write(json.dumps(command).encode() + b"\0")
        while (answer := self.message()).get("id") != self.number:
            self.events.append(answer)
        if "error" in answer:
            sys.exit(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def wait_for(self, event):
        while not any(e.get("method") == event for e in self.events):
            self.events.append(self.message())

    def evaluate(self, script):
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            return [f"the check itself failed: {found['exceptionDetails']['exception'].get('description')}"]
        return found["result"].get("value")

    def close(self):
        self.session = None
        self.call("Browser.close")
        self.process.wait(20)


def complaints(events, page):
    """What the console said and what was fetched besides the page."""
    for event in events:
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                yield f"an error: {details.get('exception', {}).get('description', details['text'])}"
            case "Runtime.consoleAPICalled":
                yield f"the console: {[a.get('value') for a in params['args']]}"
            case "Log.entryAdded":
                yield f"the log: {params['entry']['text']}"
            case "Page.javascriptDialogOpening":
                yield f"a dialogue: {params['message']}"
            case "Network.requestWillBeSent" if params["request"]["url"] != page:
                yield f"a request for {params['request']['url']}"


def view(browser, page, name, width, scheme, out):
    browser.session = None
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    browser.session, browser.events = session, []
    for domain in ["Page", "Runtime", "Log", "Network"]:
        browser.call(f"{domain}.enable")
    size = dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
    browser.call("Emulation.setDeviceMetricsOverride", **size)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.call("Page.navigate", url=page)
    browser.wait_for("Page.loadEventFired")
    # Two frames, so that charts have taken their size.
    browser.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 150))))")
    wrong = list(browser.evaluate(LOOK.replace("BACKGROUND", json.dumps(BACKGROUNDS[scheme]))) or [])
    if out:
        height = browser.call("Page.getLayoutMetrics")["cssContentSize"]["height"]
        clip = dict(x=0, y=0, width=width, height=height, scale=1)
        shot = browser.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        (out / f"report-{name}.png").write_bytes(base64.b64decode(shot["data"]))
    wrong += browser.evaluate(OPEN) or []
    charts = {theme: browser.evaluate(CHOOSE.replace("THEME", json.dumps(theme))) for theme in BACKGROUNDS}
    wrong += complaints(browser.events, page)
    browser.session = None
    browser.call("Target.closeTarget", targetId=target)
    return wrong, charts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="folder for pictures; several reports have folders of their own in it")
    args = parser.parse_args()
    path = chromium()
    if path is None:
        print("SKIPPED: no Chromium here; BONFIRE_CHROMIUM names one")
        return
    failures = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(path, profile)
        for report in args.reports:
            out = args.out and (args.out if len(args.reports) == 1 else args.out / report.stem)
            if out:
                out.mkdir(parents=True, exist_ok=True)
            seen = {}
            for name, width, scheme in VIEWS:
                wrong, charts = view(browser, report.resolve().as_uri(), name, width, scheme, out)
                if seen.setdefault(width, charts) != charts:
                    wrong.append("the button gives other charts than the system's theme")
                if charts["light"] == charts["dark"]:
                    wrong.append("the button changes nothing")
                failures += len(wrong)
                print(f"{report.name}, {name}: {'; '.join(wrong) if wrong else 'fine'}", flush=True)
        browser.close()
    if failures:
        sys.exit(f"{failures} things are wrong")


if __name__ == "__main__":
    main()
