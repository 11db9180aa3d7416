"""The report in a real browser: it renders, its controls respond, and hostile names do nothing."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

import pytest

from palaestra.core.errors import PalaestraError
from palaestra.report import clip
from palaestra.report.figures import ways
from palaestra.report.page import write_report
from palaestra.report.summary import by_task
from palaestra.runs.record import load_records

from ..datasets import random_dataset
from .made_runs import write_comparison, write_run

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PWN = "window.pwned=1"
HOSTILE = [
    f"</script><script>{PWN}</script>",
    f'"><img src=x onerror="{PWN}">',
    f"<svg onload={PWN}>",
    f"javascript:{PWN}",
    f"<!--<script>{PWN}//",
    "\u202egnp.exe\u2066",
    "nul\x00byte",
    "half \ud800 a pair",
    "\x1b[31mred\x1b[0m\r\n",
    "__proto__",
    "x" * 1_000_000,
]


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromedriver are not installed (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in [*FLAGS, f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        yield made
        made.quit()


class Page:
    """A report that is open in the browser."""

    def __init__(self, browser, path: Path):
        self.browser = browser
        browser.get_log("browser")
        browser.get(path.resolve().as_uri())

    def all(self, selector: str):
        return self.browser.find_elements("css selector", selector)

    def count(self, selector: str) -> int:
        return len(self.all(selector))

    def click(self, selector: str, which: int = 0) -> None:
        self.js("arguments[0].click()", self.all(selector)[which])

    def text(self, selector: str) -> str:
        return self.js("return document.querySelector(arguments[0]).textContent", selector)

    def js(self, script: str, *arguments):
        return self.browser.execute_script(script, *arguments)

    @property
    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser")]


@pytest.fixture
def show(browser):
    def show(folder: str | Path, **options) -> Page:
        options = {"title": "A comparison", "command": "palaestra report runs", "clips": False, **options}
        return Page(browser, write_report(load_records(folder), Path("report.html"), **options))

    return show


@pytest.fixture
def page(show) -> Page:
    return show(write_comparison("runs"))


def test_it_renders_without_a_complaint(page):
    assert page.js("return document.documentElement.dataset.ready") == "true"
    assert page.count("section.task svg") == 3
    assert page.count("[data-plot=curves] .line") == page.count("[data-plot=curves] .band") == 2
    assert page.count("[data-plot=scores] .seed") == 10
    assert page.complaints == []


def test_it_loads_nothing_from_elsewhere(page):
    assert page.js("return performance.getEntriesByType('resource').length") == 0
    source = Path("report.html").read_text()
    assert set(re.findall(r"https?://[^\"' )]*", source)) == {"http://www.w3.org/2000/svg"}


def test_the_legend_hides_and_shows_a_method_in_every_chart(page):
    page.click(".legend button")
    for plot in ("curves", "profile"):
        assert page.count(f"[data-plot={plot}] .line") == 1
    assert page.count("[data-plot=scores] .seed") == 5
    assert page.all(".legend button")[0].get_attribute("aria-pressed") == "false"
    page.click(".legend button")
    assert page.count("[data-plot=curves] .line") == 2


def test_hiding_every_method_leaves_an_empty_chart(page):
    page.click(".legend button", 0)
    page.click(".legend button", 1)
    assert page.count("[data-plot=curves] .line") == 0 and page.count("[data-plot=curves] svg") == 1
    assert page.complaints == []


def test_the_lines_of_single_seeds_appear_on_demand(page):
    assert page.count("[data-plot=curves] .run") == 0
    page.click(".toolbar input")
    assert page.count("[data-plot=curves] .run") == 10
    page.click(".toolbar input")
    assert page.count("[data-plot=curves] .run") == 0


def test_the_horizontal_axis_can_be_wall_clock_time(page):
    assert "environment steps" in page.text("[data-plot=curves]")
    page.click("[data-axis=seconds]")
    assert "wall-clock time" in page.text("[data-plot=curves]")
    page.click("[data-axis=clock]")
    assert "environment steps" in page.text("[data-plot=curves]")


def test_any_other_metric_can_be_chosen(show):
    write_run("run", [1.0, 2.0], extra={"loss/critic": 5.0})
    page = show("run")
    options = [option.text for option in page.all(".toolbar option")]
    assert options == ["evaluation/return", "loss/critic"]
    page.js("const s = document.querySelector('select'); s.value = 1; s.dispatchEvent(new Event('change'))")
    assert page.js("return document.querySelector('[data-plot=curves] svg').getAttribute('aria-label')").startswith(
        "loss/critic"
    )


def test_what_answers_are_worth_by_divergence_is_drawn_where_a_proxy_was_learnt_from(show):
    logged = {"answers/kl_reference": 0.5, "reward/gold": 0.7, "reward/mean": 1.2}
    write_run("runs/proxied/seed0", [1.0, 2.0], method="proxied", extra=logged)
    write_run("runs/proxied/seed1", [1.0, 2.0, 3.0], method="proxied", seed=1, extra=logged)
    write_run("runs/plain/seed0", [1.0, 2.0], method="plain", extra={"reward/mean": 1.0})
    page = show("runs")
    for plot in ("gold", "proxy"):
        assert page.count(f"[data-plot={plot}] .line") == page.count(f"[data-plot={plot}] .point") == 2
    page.click(".legend button")
    assert page.count("[data-plot=gold] .line") in (0, 2)
    assert page.complaints == []
    write_run("alone", [1.0, 2.0])
    assert show("alone").count("[data-plot=gold]") == 0


def test_a_way_is_the_mean_over_parts_of_its_rounds():
    write_run("run", [1.0] * 80, extra={"answers/kl_reference": 0.5, "reward/gold": 0.7, "reward/mean": 1.2})
    [entry] = by_task(load_records("run"))[0].entries
    [way] = ways(entry)
    assert way == {"seed": 0, "kl": [0.5] * 40, "gold": [0.7] * 40, "proxy": [1.2] * 40}
    write_run("other", [1.0, 2.0])
    assert ways(by_task(load_records("other"))[0].entries[0]) is None


def test_the_pointer_and_the_arrow_keys_show_values(page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    area = page.all("[data-plot=curves] rect")[0]
    ActionChains(page.browser).scroll_to_element(area).move_to_element_with_offset(area, 200, 0).perform()
    shown = page.text("[data-plot=curves] .tip")
    assert "steps" in shown and "good" in shown and "[" in shown
    page.js("arguments[0].focus()", area)
    for _ in range(5):
        area.send_keys(Keys.ARROW_RIGHT)
    assert "1,000 steps" in page.text("[data-plot=curves] .tip")


def test_tables_say_what_the_runs_say(page):
    results = page.all("section.task table")[0].text
    assert results.index("good") < results.index("bad") and "0–4" in results
    assert page.text(".matrix").count("1.00") >= 1
    made = page.text(".made")
    for fact in ("palaestra report runs", "abc123", "a machine", "0.0003", "runs/Pendulum-v1/good/seed0"):
        assert fact in made


def test_several_tasks_get_a_section_each_and_one_for_all(show):
    write_comparison("runs", "Pendulum-v1")
    write_comparison("runs", "CartPole-v1")
    page = show("runs")
    assert [heading.text for heading in page.all("section.task h2")] == ["CartPole-v1", "Pendulum-v1", "All tasks"]
    assert page.complaints == []


def test_datasets_stand_before_the_tasks_with_their_map(show):
    for name, steps in (("short", 600), ("long", 1000)):
        random_dataset("Pendulum-v1", steps).save(name)
        for sampler in ("uniform", "aw"):
            write_run(
                f"runs/{name}/{sampler}",
                [-900.0],
                task=name,
                kind="dataset",
                settings={"sampler": sampler},
                extra={"evaluation/score": 40.0},
            )
    page = show("runs")
    assert [link.text for link in page.all("nav a")] == ["Datasets", "long", "short", "All tasks"]
    assert page.all("section")[0].get_attribute("id") == "datasets"
    assert page.count(".map circle") == 2
    rows = [row.text.split() for row in page.all("#datasets table")[0].find_elements("css selector", "tbody tr")]
    assert [row[:2] for row in rows[:2]] == [["sac", "uniform"], ["sac", "aw"]]
    assert page.complaints == []


def test_it_follows_the_colour_scheme_and_fits_a_narrow_window(page):
    def background(scheme: str) -> str:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        return page.js("return getComputedStyle(document.body).backgroundColor")

    assert background("dark") != background("light")
    size = {"width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": False}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert page.js("return document.documentElement.scrollWidth") <= 360
    page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_clips_are_shown_and_their_absence_is_explained(show, monkeypatch):
    Image = pytest.importorskip("PIL.Image")

    def film(record):
        if record.method == "bad":
            raise PalaestraError("no display <b>here</b>")
        return clip._encode([Image.new("RGB", (32, 32), (shade, 0, 0)) for shade in (0, 200)], 50)

    monkeypatch.setattr(clip, "clip", film)
    page = show(write_comparison("runs"), clips=True)
    assert page.js("return document.querySelector('.clip img').naturalWidth") == 32
    assert "seed 4" in page.text(".clip")
    assert any("No clip of bad: no display <b>here</b>." in note.text for note in page.all(".note"))
    assert page.complaints == []


def test_hostile_names_do_nothing(show):
    for i, text in enumerate(HOSTILE):
        for seed in range(2):
            write_run(
                f"runs/{i}/{seed}",
                [1.0, 2.0 + i],
                method=text,
                task=HOSTILE[i % 2],
                seed=seed,
                settings={text[:5000]: text[:5000]},  # YAML of a megabyte takes seconds to read
                status=text if i == 2 else "finished",
                reason=text,
                command=text,
                extra={text: 1.0, "evaluation/score": 1.0 + i},
                kind="dataset",
            )
    page = show("runs", title="".join(HOSTILE), command="\n".join(HOSTILE))
    for selector in (".legend button", ".toolbar input", "[data-axis=seconds]"):
        page.click(selector)
    assert page.js("return document.documentElement.dataset.ready") == "true"
    assert page.js("return window.pwned === undefined && ({}).pwned === undefined")
    assert page.count("section.task script, section.task img, bdi *") == 0
    assert page.count("[data-plot=curves] .line") > 0
    assert page.complaints == []
    assert Path("report.html").stat().st_size < 2_000_000
    assert f"<svg onload={PWN}>" in page.js("return document.querySelector('.made').textContent")


def test_even_markup_that_got_in_could_not_run(page):
    page.js(f"document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"{PWN}\"><b onclick=\"{PWN}\">b</b>')")
    page.click("body > b")
    assert page.js("return window.pwned === undefined")


def test_runs_that_are_not_comparable_yet_still_make_a_page(show):
    folder = write_run("fresh", [1.0], status="running")
    (folder / "metrics.jsonl").write_text("")
    write_run("nan", [float("nan")], method="broken")
    write_run("one", [1.0], method="one")
    page = show(["fresh", "nan", "one"])
    assert page.js("return document.documentElement.dataset.ready") == "true"
    assert page.complaints == []


def test_a_page_of_runs_without_any_evaluation_says_so(show):
    folder = write_run("fresh", [1.0], status="running")
    (folder / "metrics.jsonl").write_text("")
    page = show("fresh")
    assert "No evaluation has finished yet." in page.text("section.task")
    assert page.complaints == []


def test_a_report_without_runs_is_refused():
    with pytest.raises(PalaestraError, match="no runs"):
        write_report([], Path("report.html"), title="t", command="c")


def test_the_same_runs_give_the_same_bytes():
    write_comparison("runs")
    pages = [
        write_report(load_records("runs"), Path(f"{i}.html"), title="t", command="c", clips=False) for i in range(2)
    ]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_both_sides_of_the_pairs_that_a_method_learns_from_are_drawn_in_one_figure(show):
    sides = {"preference/chosen": -1.0, "preference/rejected": -2.0}
    for seed in range(3):
        write_run(f"runs/{seed}", [1.0, 2.0, 3.0], method="dpo", seed=seed, extra=sides)
    page = show("runs")
    assert page.count("[data-plot=likelihood] .line") == 2
    assert page.count("[data-plot=likelihood] .line.dashed") == 1
    page.click(".legend button")
    assert page.count("[data-plot=likelihood] .line") == 0
    assert page.complaints == []
