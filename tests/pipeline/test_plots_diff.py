"""The page that `dvc plots diff` writes of two experiments, in a real Chromium.

`SLSR_SCREENSHOTS=FOLDER` keeps a picture of it there, to be looked at.
"""

import os
from pathlib import Path

import pytest

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.timeout(900)]


def test_plots_diff_draws_both_experiments(chromium, copied_run):
    copied_run.run("git", "add", "--all")
    copied_run.run("git", "commit", "--quiet", "--message", "tiny")
    for name, seed in (("one", 2), ("two", 3)):
        copied_run.run("dvc", "exp", "run", "--temp", "--name", name, "-S", f"train.seed={seed}", "evaluate@none")
    copied_run.run("dvc", "plots", "diff", "one", "two", "--out", "dvc_plots")
    context = chromium.new_context(viewport={"width": 1600, "height": 1200}, offline=True)
    page, said = context.new_page(), []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(request.url))
    page.goto((copied_run.folder / "dvc_plots" / "index.html").as_uri())
    page.wait_for_selector("svg.marks")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    if folder := os.environ.get("SLSR_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "plots-diff.png", full_page=True)
    assert said == []
    for title in ("Training loss", "CMC, single query, re-ranked"):
        plot = page.locator("figure").filter(has=page.get_by_role("heading", name=title, exact=True))
        assert {"one", "two"} <= set(plot.locator("text").all_text_contents()), f"the legend of {title}"
        lines = plot.locator("g.mark-line path").evaluate_all("paths => paths.map(path => path.getAttribute('d'))")
        assert len(set(lines)) >= 2, "other seeds, other lines"
    pictures = page.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert len(pictures) >= 2
    assert all(width > 0 for width in pictures)
    context.close()
