# SPDX-License-Identifier: BSD-3-Clause
"""The page in a real browser, at the widths of a desk and of a phone, light and dark."""

import html
import json
import re
import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")

# Put into a copy of the page; the page itself has no script and forbids all.
MEASURE = """<script>
addEventListener("load", async () => {
  await Promise.all([...document.images].map((image) => image.decode().catch(() => {})));
  const width = document.documentElement.clientWidth;
  const inside = (element) => element.closest(".scroll, pre") !== null;
  const name = (element) => element.tagName + "." + element.className + " " +
    element.textContent.slice(0, 40);
  const out = {
    width, scroll: document.documentElement.scrollWidth,
    images: [...document.images].map((image) => [image.naturalWidth, image.clientWidth]),
    broad: [...document.body.querySelectorAll("*")].filter((element) => !inside(element)
      && (element.getBoundingClientRect().right > width + 1
          || element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 0)).map(name),
    scrolled: [...document.querySelectorAll(".scroll")].filter((element) =>
      element.getBoundingClientRect().right > width + 1).map(name),
    paper: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
  };
  parent.postMessage(JSON.stringify(out), "*");
});
</script></body>"""
# A window cannot be as narrow as a phone; a frame can.
FRAME = """<!doctype html><script>
addEventListener("message", (event) => {
  const answer = document.createElement("output");
  answer.id = "measured";
  answer.textContent = event.data;
  document.body.append(answer);
});
</script><body><iframe src="page.html" style="width: WIDTHpx; height: 900px; border: 0"></iframe>"""


def browse(tmp_path, path, *options):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", *options, path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.fixture(scope="module")
def measurable(compared, tmp_path_factory):
    text = compared.page.read_text(encoding="utf-8")
    text, n = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert n == 1
    path = tmp_path_factory.mktemp("measured") / "page.html"
    path.write_text(text.replace("</body>", MEASURE), encoding="utf-8")
    return path


@pytest.mark.parametrize("width, dark", [(1200, False), (400, True)])
def test_nothing_overflows_and_all_images_are_there(tmp_path, measurable, width, dark):
    options = ["--window-size=1400,1000", "--dump-dom"]
    if dark:
        options.append("--blink-settings=preferredColorScheme=0")
    frame = measurable.with_name("frame.html")
    frame.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    dom, complaints = browse(tmp_path, frame, *options)
    assert not complaints
    found = json.loads(html.unescape(re.search(r'id="measured">(.*?)</output>', dom).group(1)))
    assert 0.9 * width < found["width"] <= width
    assert len(found["images"]) >= 15 and all(n > 0 and w > 0 for n, w in found["images"])
    assert found["scroll"] <= found["width"]
    assert found["broad"] == [] and found["scrolled"] == []
    brightness = [sum(map(int, re.findall(r"\d+", found[side])[:3])) for side in ("paper", "ink")]
    assert (brightness[0] < 150 and brightness[1] > 600) is dark
    assert abs(brightness[0] - brightness[1]) > 500


def test_the_browser_has_nothing_to_complain_about(tmp_path, compared):
    shot = tmp_path / "page.png"
    _, complaints = browse(
        tmp_path, compared.page, "--window-size=1000,1500", f"--screenshot={shot}"
    )
    assert complaints == []
    from PIL import Image

    with Image.open(shot) as image:
        assert image.size == (1000, 1500) and len(image.convert("L").getcolors()) > 50
