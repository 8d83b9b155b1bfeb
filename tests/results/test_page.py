"""The report's page: whole in one file, right in a browser, and deaf to what models and data sets say."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from sparsemm.paths import resolve
from sparsemm.results.page import LIBRARY, VENDOR, HeadMap, Material, Page, write_page
from sparsemm.results.page_samples import MOST_IMAGE_BYTES, choose, encoded
from sparsemm.results.report import write_report
from sparsemm.results.store import Store
from sparsemm.results.tables import Claim, build_tables
from tests.results.conftest import made_grid

Results = list[dict[str, Any]]
Maker = Callable[..., dict[str, Any]]
HOSTILE = '</script><script>document.title="taken"</script><img src=x onerror=\'document.title="taken"\'>'


BROKEN_NAMES = """[...document.querySelectorAll("#sample tbody th")].filter(head => {
    const name = document.createRange();
    name.selectNodeContents(head.lastChild);
    return !head.lastChild.data.includes(" ") && name.getClientRects().length > 1;
}).length"""  # methods in the browser of samples whose name goes on in another line


def _records(result: dict[str, Any]) -> list[dict[str, Any]]:
    budget = result["label"]["budget"]
    return [
        {"sample": f"s{n}", "document": f"d{n}", "index": n, "question": HOSTILE, "references": [HOSTILE]}
        | {"answer": HOSTILE + (f"{budget}" if n % 2 else ""), "score": float(n % 3 == 0 or budget != 8)}
        | {"kept_entries": 10, "full_entries": 100, "error": None}
        for n in range(12)
    ]


def _image(_: str, index: int) -> list[Image.Image]:
    if index == 1:
        raise ValueError(f"gone {HOSTILE}")
    return [Image.new("RGB", (64, 48), (index * 20, 90, 120))]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose every text is hostile; nobody changes it."""
    grid, tmp_path = made_grid(), tmp_path_factory.mktemp("page")
    for result in grid:
        result["label"]["task"] = f"documents {HOSTILE}"
        result["provenance"] |= {"device": HOSTILE, "started": "2026-01-02T03:04:05+00:00"}
    store = Store(tmp_path / "outputs")
    for result in grid:
        with store.cell(result["fingerprint"]).begin_attempt("worker") as attempt:
            attempt.append(_records(result))
    red = (Path(__file__).parents[2] / "docs" / "quickstart.png").read_bytes()
    material = Material(
        store=store, images=_image, head_maps=[HeadMap(HOSTILE, HOSTILE, red, red)], command=HOSTILE
    )
    claim = Claim(title=f"Title {HOSTILE}", sentence=HOSTILE)
    expected = [result["label"] for result in grid]
    write_report("demo", grid, expected, tmp_path / "demo", claim, material=material)
    return tmp_path / "demo" / "page.html"


@pytest.fixture
def browser(page: Path, opened: Callable[..., Any]) -> Iterator[Any]:
    with opened(page) as found:
        yield found


def test_vendored_files_are_those_that_were_published():
    folder = resolve(VENDOR)
    sums = dict(reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines())
    found = {
        f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "uplot").iterdir()
    }
    assert found == sums
    assert f"{LIBRARY[0]} (v{LIBRARY[1]})" in (folder / "uplot" / "uPlot.iife.min.js").read_text()[:200]
    assert f"| {LIBRARY[1]} | MIT" in (folder / "README.md").read_text()


def test_page_refers_to_nothing_outside_itself(page):
    text = page.read_text()
    assert not re.findall(r'(?:src|href|srcset)="(?!#|data:)[^"]*"', text)
    assert "default-src 'none'" in text and HOSTILE not in text


def test_page_is_the_same_in_any_order_and_needs_no_samples(grid, tmp_path):
    written = []
    for order in (grid, grid[::-1]):
        write_report("a", order, [], tmp_path)
        written.append((tmp_path / "page.html").read_text())
    assert written[0] == written[1]
    assert 'id="samples"' not in written[0] and 'id="tables"' in written[0]


def test_page_of_nothing_says_so(make_label, tmp_path):
    write_report("empty", [], [make_label("snapkv", 8)], tmp_path)
    text = (tmp_path / "page.html").read_text()
    assert "1 of 1 cells not run yet." in text and "No cell has a result yet." in text
    assert "<li>model tiny, task documents, method snapkv, budget 8" in text


def test_hostile_text_is_shown_as_text(browser):
    assert browser.title == f"Title {HOSTILE}"
    assert "taken" not in (
        browser.title.partition("<")[0],
        browser.execute_script("return document.title")[:5],
    )
    assert browser.find_element("css selector", ".question").text == HOSTILE
    answers = browser.find_elements("css selector", "#sample td.answer")
    assert answers and all(one.text.startswith(HOSTILE) for one in answers)
    assert not browser.find_elements("css selector", "#sample img[onerror]")
    assert len(browser.find_elements("css selector", "script")) == 5  # the data, uPlot and our three


def test_nothing_is_asked_of_the_network(browser):
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_a_click_on_a_column_sorts_its_methods_with_their_lines(browser):
    def column() -> list[float]:
        cells = browser.find_elements("css selector", "table.scores tbody tr:first-child td:nth-child(2)")
        return [float(cell.get_attribute("data-value")) for cell in cells]

    before = column()
    button = browser.find_element("css selector", "table.scores thead th:nth-child(2) button")
    button.click()
    assert column() == sorted(before, reverse=True) != before
    button.click()
    assert column() == sorted(before)
    button.click()
    assert column() == before


def test_a_click_on_a_method_hides_its_curve_and_its_interval(browser):
    def shown() -> list[bool]:
        script = "return charts[0].series.filter(s => s.method === 'SnapKV').map(s => s.show)"
        return browser.execute_script(script)

    chip = next(
        one for one in browser.find_elements("css selector", "#methods button") if one.text == "SnapKV"
    )
    assert shown() == [True] * 3
    chip.click()
    assert shown() == [False] * 3 and chip.get_attribute("aria-pressed") == "false"
    chip.click()
    assert shown() == [True] * 3


def test_pointing_at_a_curve_shows_every_method_at_that_budget(browser):
    from selenium.webdriver import ActionChains

    area = browser.find_element("css selector", ".u-over")
    ActionChains(browser).move_to_element_with_offset(area, 10 - area.size["width"] // 2, 0).perform()
    lines = browser.find_element("css selector", ".tip").text.splitlines()
    assert lines[0] == "budget 8"
    assert [line.split()[0] for line in lines[1:3]] == ["Full", "SparseMM"]
    assert browser.execute_script("return charts[0].scales.x.distr") == 3  # logarithmic


def test_samples_are_browsed_and_filtered(browser):
    def place() -> str:
        return browser.find_element("id", "place").text

    assert place() == "2 of 12"  # the first where answers differ
    assert "not at hand here: gone" in browser.find_element("css selector", ".picture").text
    assert browser.find_elements("css selector", "#sample mark")
    for part in (".question", "td.answer"):  # text from right to left is read so
        assert browser.find_element("css selector", f"#sample {part}").get_attribute("dir") == "auto"
    browser.find_element("xpath", "//button[contains(., 'next')]").click()
    assert place() == "3 of 12"
    decoded = "const image = document.querySelector('.picture img'), done = arguments[0];"
    decoded += "image.decode().then(() => done(image.naturalWidth))"  # it comes a moment after its element
    assert browser.execute_async_script(decoded) == 64
    browser.find_element("id", "only").click()
    assert place() == "1 of 6"


def test_a_mark_holds_whole_letters(browser):
    said = "return marked('a \U0001f600 b', 'a \U0001f601 b').map(one => one.textContent ?? one)"
    assert browser.execute_script(said) == ["a ", "\U0001f600", " b"]


@pytest.mark.parametrize(("width", "dark"), [(360, False), (390, True), (1280, True)])
def test_page_fits_its_window(page, opened, width, dark):
    with opened(page, width, dark) as browser:
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        color = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert color == ("rgb(21, 23, 28)" if dark else "rgb(255, 255, 255)")
        assert browser.execute_script(f"return {BROKEN_NAMES}") == 0
        names = browser.find_element("css selector", "table.scores tbody th")
        assert names.size["width"] < width / 2.4  # the scores beside them are seen
        charts = "return charts.map(one => one.over.clientWidth + one.over.clientHeight > 300)"
        assert browser.execute_script(charts) == [True]


def test_printed_curves_keep_their_legend(browser):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert browser.find_element("css selector", ".chips button").is_displayed()
    assert browser.find_element("css selector", ".dot").value_of_css_property("print-color-adjust") == "exact"


def test_samples_that_differ_most_and_evenly_spaced_ones_are_chosen():
    cells = [
        {f"s{n:02d}": {"index": n, "score": float(n in (7, 8, 9) and cell == 0)} for n in range(40)}
        for cell in range(2)
    ]
    why = dict(choose(cells, 6))
    assert [name for name, text in why.items() if "differ" in text] == ["s07", "s08", "s09"]
    assert len(why) == 6 and list(why) == sorted(why)
    assert len(choose(cells, 40)) == 40


def test_the_page_of_the_whole_table_3_with_200_samples_stays_under_10_mb(cell, tmp_path):
    """Every text as long as the page shows any, and all the images that it makes room for."""
    long = "an answer that does not end " * 100
    record = {"question": long, "references": [long] * 6, "answer": long, "score": 1.0, "error": None}
    record |= {"kept_entries": 1, "full_entries": 2, "document": "d"}
    records = {f"s{n:03d}": record | {"sample": f"s{n:03d}", "index": n} for n in range(20)}
    first, results = cell("qwen2_vl_7b", "docvqa", "full", None, 0.5), []
    for model in ("llava_next_vicuna_7b", "llava_next_mistral_7b", "qwen2_vl_7b"):
        for task in ("docvqa", "ocrbench", "textvqa", "chartqa", "textcaps"):
            for method in ("full", "snapkv", "pyramidkv", "adakv", "sparsemm", "random"):
                for budget in (None,) if method == "full" else (2048, 1024, 512, 256, 128, 64):
                    label = first["label"] | {
                        "model": model,
                        "task": task,
                        "method": method,
                        "budget": budget,
                    }
                    name = f"{len(results):020x}"
                    results.append(first | {"label": label, "fingerprint": name})
    sampled = SimpleNamespace(
        cell=lambda _: SimpleNamespace(samples=lambda: SimpleNamespace(records=records))
    )
    material = Material(store=sampled, images=_image)
    made = Page(title="", sentence="", tables=build_tables(results), results=results, material=material)
    size = write_page(made, tmp_path / "page.html").stat().st_size
    assert len(results) == 465 and (tmp_path / "page.html").read_text().count("one of all samples") == 0
    assert size > 4e6 and size + MOST_IMAGE_BYTES * 4 / 3 < 10e6


def test_images_are_made_small_enough():
    noise = Image.effect_noise((1600, 1200), 90)
    room = MOST_IMAGE_BYTES // 200
    data = encoded(noise, room)
    assert len(data) <= room or len(data) == len(encoded(noise, 1))
    assert data[8:12] == b"WEBP"


def _with_benches(results: Results, benches: Results, folder: Path) -> Path:
    material = Material(store=Store(folder / "outputs"), images=_image, benches=benches)
    write_report("demo", results, [], folder, material=material)
    return folder / "page.html"


def test_speed_and_memory_are_curves_beside_the_papers(cell, bench, tmp_path, opened):
    model = "llava_next_vicuna_7b"
    results = [cell(model, "ocrbench", "full", None, 0.5), cell(model, "ocrbench", "sparsemm", 64, 0.4)]
    benches = [bench(model, (2048, 32768), gpu=True, device=f"H200 {HOSTILE}"), bench("tiny", (64,))]
    with opened(_with_benches(results, benches, tmp_path), 390) as browser:
        section = browser.find_element("id", "efficiency")
        assert f"Measured on: H200 {HOSTILE}, CUDA 13.0" in section.text
        assert [one.text for one in section.find_elements("css selector", ".chips button")] == [
            *("Full cache", "SparseMM, budget 256", "the paper's points (hollow, dotted)")
        ]
        assert browser.execute_script("return DATA.efficiency.map(one => one.task + ' ' + one.metric)") == [
            *(f"{model} ms per token", f"{model} peak GB (1e9 bytes)")
        ]
        paper = "return DATA.efficiency[0].lines.map(one => one.paper)"
        assert browser.execute_script(paper) == [[37.4, 70.9], None, None, [37.5, 37.9], None, None]
        shown = "return charts.map(plot => plot.series.filter(one => one.method && one.show).length)"
        assert browser.execute_script(shown) == [6, 6 * 3 + 2, 2 * 3 + 2]
        section.find_element("css selector", ".chips button").click()
        assert browser.execute_script(shown) == [6, 3 * 3 + 1, 3 + 1]
        section.find_element("css selector", ".chips .paper").click()
        assert browser.execute_script(shown) == [6, 3 * 3, 3]
        section.find_element("tag name", "summary").click()
        rows = [row.text.split()[-2:] for row in section.find_elements("css selector", "tbody tr")]
        assert rows[:2] == [["10.00", "10.00"], ["37.40", "70.90"]]
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


def test_what_was_measured_of_other_models_is_not_shown(grid, bench, tmp_path):
    text = _with_benches(grid, [bench("qwen2_vl_7b", (2048,))], tmp_path).read_text()
    assert 'id="efficiency"' not in text and "a processor" not in text
