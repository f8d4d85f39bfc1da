"""Look at a report in headless Chromium, as a reader does; print what was found as JSON. A program of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

# The last ones keep the browser itself from calling home.
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
OPTIONS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
VIEWS = [(width, height, scheme) for width, height in ((1280, 900), (375, 812)) for scheme in ("light", "dark")]


def look(browser, path, width, height, scheme):
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page, messages, requests = context.new_page(), [], []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url.rpartition("/")[2]))
    page.goto(path.as_uri())
    view = {"width": width, "title": page.title(), "content_width": page.evaluate("document.body.scrollWidth")}
    view["shown_at_first"] = page.locator("#list > li:visible").count()
    view["found"] = []
    for words in ("window.hacked onload", "right to left שלום", "no such words"):
        page.fill("#search", words)
        view["found"].append(page.locator("#found").evaluate("o => o.value"))
    page.fill("#search", "")
    page.select_option("#status", "kept")
    view["found_kept"] = page.locator("#found").evaluate("o => o.value")
    page.select_option("#status", "")
    page.select_option("#sort", "index")
    view["first_by_pool"] = page.locator("#list > li").first.get_attribute("data-index")
    while page.locator("#more").is_visible():
        page.click("#more")
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true })")
    page.locator("#list > li summary").first.hover()
    view["open_width"] = page.evaluate("document.documentElement.scrollWidth")
    view["hacked"] = page.evaluate("window.hacked ?? document.getElementById('hacked')")
    view["headings"] = page.locator("h1").count()
    context.close()
    return {**view, "messages": messages, "requests": requests}


if __name__ == "__main__":
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=OPTIONS)
        print(json.dumps([look(chromium, Path(sys.argv[1]), *view) for view in VIEWS]))
        chromium.close()
