"""Opens the history of the benchmarks in a browser, because pages that exist may still show nothing."""

from __future__ import annotations

import functools
import http.server
import json
import math
import os
import re
import shutil
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.history

RESULTS = Path(__file__).parents[2] / "asv_benchmarks" / "results"
MACHINE = "epyc-zen5-2cpu"
BENCHMARKS = [name for name in json.loads((RESULTS / "benchmarks.json").read_text()) if "." in name]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
IS_DRAWN = """
canvas => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some(part => part > 0)
"""
POINTS = """
() => $("#main-graph").data("plot").getData().flatMap(({datapoints: {points, pointsize: size}}) =>
    Array.from({length: points.length / size}, (_, at) => [points[size * at], points[size * at + 1]]))
"""


TICKS = """
() => Object.fromEntries(["x", "y"].map(name => [
    name, $("#main-graph").data("plot").getAxes()[name + "axis"].ticks.map(tick => [tick.v, tick.label])
]))
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_request(self, code="-", size="-"):
        pass


@pytest.fixture(scope="module")
def address():
    """The address of the served pages."""
    handler = functools.partial(Quiet, directory=os.environ["ROTARY_PAGES"])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    """Chromium or Chrome, without a window."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("ROTARY_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail(
            f"none of {', '.join(BROWSERS)} is on the path; `apt-get install chromium` brings one on Debian, "
            "and ROTARY_BROWSER may name the program"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """An empty page, which may load only from the served pages, and without an error."""
    page = browser.new_page(base_url=address, viewport={"width": 1400, "height": 5000})
    wrong = []
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith(address) or wrong.append(asked.url))
    page.on("requestfailed", lambda asked: wrong.append(asked.url))
    yield page
    page.close()
    assert wrong == []


def kept():
    """The results of each commit, benchmark to numbers; NaN if that version of the library lacks something."""
    files = [path for path in (RESULTS / MACHINE).glob("*.json") if path.name != "machine.json"]
    results = [json.loads(path.read_text())["results"] for path in files]
    return [{name: row[0] for name, row in commit.items()} for commit in results]


def test_at_least_ten_commits_are_stored_and_nothing_failed():
    assert len(kept()) >= 10
    for commit in kept():
        assert all(None not in (numbers or [None]) for numbers in commit.values())


def test_the_first_page_shows_a_graph_of_every_benchmark(page):
    page.goto("index.html")
    page.wait_for_selector(".benchmark-container")
    assert page.locator(".benchmark-container").count() == len(BENCHMARKS)
    for name in BENCHMARKS:
        plot = page.locator(f"[id='summarygrid-{name}'] canvas.flot-base")
        assert plot.evaluate(IS_DRAWN), name


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_graph_has_a_point_for_every_stored_number(page, name):
    page.goto(f"index.html#{name}?machine={MACHINE}")
    assert page.locator("#main-graph canvas.flot-base").evaluate(IS_DRAWN)
    shown = [value for _, value in page.evaluate(POINTS) if value is not None]
    measured = [
        value for commit in kept() for value in commit.get(name, []) if not math.isnan(value)
    ]
    assert sorted(shown) == sorted(measured)


def test_axes_show_units_and_commits(page):
    page.goto(f"index.html#decode.OneToken.time_new?machine={MACHINE}")
    assert page.locator("#main-graph canvas.flot-base").evaluate(IS_DRAWN)
    ticks = page.evaluate(TICKS)
    hashes = {path.name[:8] for path in (RESULTS / MACHINE).glob("*-*.json")}
    commits = [label for _, label in ticks["x"]]
    assert 2 <= len(commits) <= 12
    assert set(commits) <= hashes
    assert len(ticks["y"]) >= 2
    for value, label in ticks["y"]:
        number, unit = re.fullmatch(r"([\d.]+)(ns|μs|us|ms|s)", label).groups()
        size = {"ns": 1e-9, "ms": 1e-3, "s": 1.0}.get(unit, 1e-6)
        assert float(number) * size == pytest.approx(value, rel=1e-3)
    names = page.evaluate("() => COMMIT_NAMES")
    assert set(commits) <= set(names)
    assert all(names.values())


def test_bars_are_at_the_values_of_a_parameter(page):
    page.goto(f"index.html#rotate.Dtype.time_out?machine={MACHINE}&x-axis=dtype")
    assert page.locator("#main-graph canvas.flot-base").evaluate(IS_DRAWN)
    places = sorted(where for where, _ in page.evaluate(POINTS))
    # Two layouts, each bar 0.3 wide.
    assert places == pytest.approx([-0.15, 0.15, 0.85, 1.15, 1.85, 2.15, 2.85, 3.15])
