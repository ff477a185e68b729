"""The report in a real browser: it loads silently, fits a phone, sorts, and can be read in light and in dark."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lcm.config import Report
from lcm.evaluation.report import read_study, render
from tests.planted_results import STRATEGIES, plant

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--allow-file-access-from-files",
    "--enable-logging=stderr",
    "--virtual-time-budget=4000",
)
PROBE = Path(__file__).with_name("report_probe.js")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium to run this test")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = plant(tmp_path_factory.mktemp("results"))
    path = results / "index.html"
    path.write_text(render(read_study(results, STRATEGIES, "AAL"), Report()), encoding="utf-8")
    return path


def look(page: Path, width: int, *flags: str) -> tuple[dict[str, Any], str]:
    """What the probe saw of the page in a frame of that width, and the browser's log."""
    frame = f'<body style="margin:0"><iframe src="{page.name}" style="width:{width}px;height:800px;border:0"></iframe>'
    harness = page.with_name(f"harness-{width}.html")
    harness.write_text(f"<!doctype html>{frame}<script>{PROBE.read_text(encoding='utf-8')}</script>", encoding="utf-8")
    profile = page.with_name(f"profile-{width}-{len(flags)}")
    command = [str(CHROMIUM), *FLAGS, *flags, f"--user-data-dir={profile}", "--window-size=1400,900", "--dump-dom"]
    done = subprocess.run([*command, harness.as_uri()], capture_output=True, text=True, timeout=90, check=True)
    seen = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert seen is not None, done.stderr[-2000:]
    return json.loads(html.unescape(seen[1])), done.stderr


@pytest.fixture(scope="module")
def laptop(page: Path) -> tuple[dict[str, Any], str]:
    return look(page, 1280)


@pytest.fixture(scope="module")
def phone(page: Path) -> tuple[dict[str, Any], str]:
    return look(page, 390)


def test_the_page_loads_without_errors_and_without_network(laptop):
    seen, log = laptop
    assert seen["errors"] == []
    assert seen["requests"] == []
    assert not re.findall(r".*CONSOLE.*", log)


def test_the_page_never_scrolls_sideways(laptop, phone):
    for seen, _ in (laptop, phone):
        assert seen["page_width"] <= seen["frame_width"]
    assert phone[0]["frame_width"] == 390


def test_every_figure_has_a_size(laptop, phone):
    for seen, _ in (laptop, phone):
        assert len(seen["images"]) == 11
        assert all(natural > 100 and width > 100 and height > 50 for natural, width, height in seen["images"])


def test_a_table_sorts_by_number_both_ways_and_says_so(laptop):
    seen, _ = laptop
    values = [float(text) for text in seen["descending"]]
    assert len(values) == 3
    assert values == sorted(values, reverse=True)
    assert [float(text) for text in seen["ascending"]] == sorted(values)
    assert seen["said"] == "descending"


def test_text_has_the_contrast_of_wcag_aa_in_light_and_dark(page, laptop):
    dark, _ = look(page, 1280, "--blink-settings=preferredColorScheme=0")
    light = laptop[0]["contrast"]
    assert light["ratio"] >= 4.5, light
    assert dark["contrast"]["ratio"] >= 4.5, dark["contrast"]
    assert dark["contrast"] != light


def test_headings_and_links_lead_somewhere(laptop):
    seen, _ = laptop
    assert seen["headings"][0] == "H1"
    assert seen["headings"].count("H1") == 1
    assert seen["duplicate_ids"] == 0
    assert seen["missing_anchors"] == 0
