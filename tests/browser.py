"""A page in a headless browser: what goes wrong in it on a narrow and on a wide screen. Chromium and Chrome are taken
where they are installed; set-up installs none."""

import html
import json
import re
import shutil
import subprocess

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--dump-dom")
WIDTHS = (360, 1280)  # pixels: a telephone, a screen

# First in a copy of the page.
_SPY = """<script>
const errors = [];
addEventListener("error", event => errors.push(String(event.message || event.target.outerHTML).slice(0, 200)), true);
</script>"""
# The page in frames, which may be narrower than any window. Once all of it is loaded, what it is found to be is the
# text of the page around it: how far it reaches out to the right, and which elements do, but for those that can be
# scrolled to; names that are crushed to a letter a line; pictures that are not there; plots across the page that are
# larger than they were drawn.
_AROUND = """<!DOCTYPE html><meta charset="utf-8"><pre id="told"></pre>FRAMES<script>
function scrolls(element) {
  const style = element && element.ownerDocument.defaultView.getComputedStyle(element);
  return element && (["auto", "scroll", "hidden"].includes(style.overflowX) || scrolls(element.parentElement));
}
function found(view) {
  const page = view.document, images = [...page.images];
  page.querySelectorAll("details").forEach(details => details.open = true);
  const room = page.documentElement.clientWidth;  // less than the frame's width by the scroll bar's
  const wide = [...page.body.querySelectorAll("*")].filter(element =>
    element.getBoundingClientRect().right > room + 0.5 && !scrolls(element.parentElement));
  return {
    errors: view.eval("errors"), over: page.documentElement.scrollWidth - room, images: images.length,
    broken: images.filter(image => !(image.naturalWidth > 0)).map(image => image.alt),
    stretched: images.filter(image => image.closest(".full") && image.width > Math.max(image.naturalWidth, 480))
      .map(image => image.alt),
    crushed: [...page.querySelectorAll("th, td")].filter(cell => cell.offsetParent && cell.clientWidth < 50
      && cell.textContent.trim().length > 12).map(cell => cell.textContent.trim()),
    wide: wide.map(element => element.outerHTML.slice(0, 120)),
  };
}
addEventListener("load", () => document.getElementById("told").textContent =
  JSON.stringify(Array.from(frames, (_, place) => found(frames[place]))));
</script>"""
_FRAME = '<iframe srcdoc="{page}" style="border: 0; width: {width}px; height: 900px"></iframe>'


@pytest.fixture(scope="session")
def browse(tmp_path_factory):
    """(page) → what is found in it at each of WIDTHS: "errors", "over", "images", "broken", "stretched", "crushed",
    "wide". Skips where there is no browser."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip(f"no browser is installed here; it is one of {', '.join(NAMES)}")
    folder = tmp_path_factory.mktemp("browser")

    def browse(page):
        source = page.read_text(encoding="utf-8")
        assert source.count("<head>") == 1
        copy = html.escape(source.replace("<head>", f"<head>{_SPY}"))
        frames = "".join(_FRAME.format(page=copy, width=width) for width in WIDTHS)
        around = folder / "around.html"
        around.write_text(_AROUND.replace("FRAMES", frames), encoding="utf-8")
        words = [browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", around.as_uri()]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        told = re.search(r'<pre id="told">(.+?)</pre>', done.stdout, re.DOTALL)
        assert told, f"the page told nothing:\n{done.stdout[-1000:]}\n{done.stderr[-1000:]}"
        return dict(zip(WIDTHS, json.loads(html.unescape(told[1])), strict=True))

    return browse
