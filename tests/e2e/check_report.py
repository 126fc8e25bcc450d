"""Opens report pages in headless Chromium and works them as a reader would.

    python tests/e2e/check_report.py PAGES [SCREENSHOTS]

PAGES has a folder with `report.html` for each kind of sweep, written by the test `every_kind_of_sweep_has_a_page` with
LIDIT_REPORT_PAGES. With SCREENSHOTS it also leaves pictures of the pages there.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

DESK = {"width": 1280, "height": 900}
PHONE = {"width": 375, "height": 740}


def problems(page: Page):
    """Console errors, exceptions and requests of a page, as they come."""
    found = []
    page.on("console", lambda message: message.type in ("error", "warning") and found.append(message.text))
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or found.append(request.url))
    page.on("dialog", lambda dialog: (found.append(dialog.message), dialog.dismiss()))
    return found


def shown_rows(page: Page):
    return page.locator("#run-table tbody tr:visible").count()


def column(page: Page, name: str):
    """The sort values of a column's visible cells, from top to bottom."""
    return page.evaluate(
        """name => {
            const table = document.querySelector("#run-table");
            const place = [...table.tHead.rows[0].cells].findIndex(cell => cell.textContent === name);
            return [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[place].dataset.value ?? null);
        }""",
        name,
    )


def check_charts(page: Page, expected: list[str], name: str):
    ids = page.eval_on_selector_all("section.plot", "sections => sections.map(section => section.id)")
    assert ids == expected, (name, ids)
    for id in ids:
        for svg in page.locator(f"#{id} svg:visible").all():
            marks = svg.locator(".mark circle, .mark polyline, .mark polygon").count()
            assert marks > 0, f"{name}: {id} has no marks"
            box = svg.bounding_box()
            assert box["width"] > 200 and box["height"] > 150, (name, id, box)


def check_sorting(page: Page):
    page.get_by_role("button", name="loss", exact=True).click()
    losses = column(page, "loss")
    numbers = [float(loss) for loss in losses if loss is not None]
    assert numbers == sorted(numbers) and losses.index(None) == len(numbers), losses
    page.get_by_role("button", name="loss", exact=True).click()
    assert [float(loss) for loss in column(page, "loss") if loss is not None] == numbers[::-1]


def check_filters(page: Page):
    total = shown_rows(page)
    page.locator("[data-axis=model]").select_option("nano")
    assert set(column(page, "model")) == {"nano"} and shown_rows(page) == 10
    dim = page.locator("#loss-compute figure.wide .mark.dim").count()
    bright = page.locator("#loss-compute figure.wide .mark:not(.dim)").count()
    assert dim > 0 and bright == 20, (dim, bright)  # a dot and a bar for each of ten runs
    assert page.locator("#shown").inner_text() == f"10 of {total} runs"
    assert page.locator("#slider").get_attribute("max") == "9"
    page.locator("#search").fill("s1 -80000")
    assert column(page, "run") == ["nano-80000-s1"]
    page.get_by_role("button", name="clear").click()
    page.wait_for_function("total => document.querySelector('#shown').textContent.startsWith(total)", arg=f"{total} of")
    assert shown_rows(page) == total


def check_pictures(page: Page):
    slider = page.locator("#slider")
    first = page.locator("#slider-name").inner_text()
    before = page.locator("#grid img").first.get_attribute("src")
    assert before.startswith("data:image/png;base64,")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#slider-name").inner_text() != first
    assert page.locator("#grid img").first.get_attribute("src") != before
    broken = page.eval_on_selector_all("#grid img", "images => images.filter(image => !image.naturalWidth).length")
    assert broken == 0
    assert "<script>alert(1)</script>" in page.locator("#grid").inner_text()


def check_configs(page: Page):
    page.locator("#left").select_option(label="femto-5000-s1")
    keys = page.locator("#diff tbody tr td:first-child").all_inner_texts()
    assert "train.lr" in keys and "train.precision" not in keys, keys
    page.locator("#right").select_option(label="femto-5000-s1")
    assert page.locator("#diff tbody tr").count() == 0


def check_tips(page: Page):
    mark = page.locator("#loss-compute figure.wide .mark:has(circle)").last
    mark.scroll_into_view_if_needed()
    mark.hover()
    assert page.locator("#tip").is_visible() and "loss" in page.locator("#tip").inner_text()
    assert page.locator("#run-table tr.hot").count() == 1
    mark.click()
    assert page.locator("#run-table tr.chosen").count() == 1
    chart = page.locator("#heat-map figure.wide svg")
    chart.focus()
    page.keyboard.press("ArrowRight")
    said = page.locator("#tip").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip").inner_text() != said
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()


def check_theme(page: Page):
    back = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(back)
    page.locator("#theme").click()
    dark = page.evaluate(back)
    assert light != dark and page.locator("#theme").inner_text() == "light"
    page.locator("#theme").click()
    assert page.evaluate(back) == light


def overflow(page: Page):
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


WHOLE = ["loss-compute", "loss-size", "heat-map", "scores", "position-quartiles", "training"]
CHARTS = {
    "grid": WHOLE,
    "budgets": WHOLE,
    "many": ["loss-group", "gain-group", "scores", "position-quartiles", "training"],
    "one": ["loss-compute", "scores", "position-quartiles", "training"],
    "planned": [],
    "nothing": [],
}


def main():
    pages = Path(sys.argv[1]).resolve()
    shots = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser_path is None:
        sys.exit("no Chromium on this machine: install the package chromium")
    with sync_playwright() as playwright:
        # Containers run tests as root, where Chromium's sandbox does not start.
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for name, charts in CHARTS.items():
            url = (pages / name / "report.html").as_uri()
            for size, scheme in [(DESK, "light"), (DESK, "dark"), (PHONE, "light")]:
                context = browser.new_context(viewport=size, color_scheme=scheme)
                page = context.new_page()
                found = problems(page)
                page.goto(url)
                assert page.evaluate("document.documentElement.dataset.theme") == scheme
                check_charts(page, charts, name)
                assert overflow(page) <= 0, f"{name}: {overflow(page)} pixels too wide at {size['width']}"
                if name == "grid":
                    assert "N^0.88 D" in page.locator(".warnings li").inner_text()
                if name == "grid" and size is DESK and scheme == "light":
                    check_sorting(page)
                    check_filters(page)
                    check_pictures(page)
                    check_configs(page)
                    check_tips(page)
                    check_theme(page)
                if shots:
                    shots.mkdir(parents=True, exist_ok=True)
                    page.mouse.move(0, 0)
                    page.evaluate("document.activeElement.blur()")
                    page.screenshot(path=shots / f"{name}-{size['width']}-{scheme}.png", full_page=True)
                assert not found, (name, found)
                context.close()
        browser.close()
    print(f"{len(CHARTS)} pages: charts, sorting, filters, pictures, configs, tips, colours and width are right")


main()
