"""The page that `dvc plots diff` writes of two experiments, in a real Chromium.

`SLSR_SCREENSHOTS=FOLDER` keeps a picture of it there, to be looked at.
"""

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from pipeline.conftest import ROOT

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.timeout(900)]


def offline(project) -> None:
    """What docs/experiments.md says for a page that fetches nothing."""
    text = (ROOT / "docs" / "experiments.md").read_text()
    install, configure = (re.search(rf"^{start}.*$", text, re.MULTILINE)[0] for start in ("npm install", "dvc config"))
    if shutil.which("npm") is None:
        pytest.skip("no npm to install Vega with")
    if (done := project.run(*shlex.split(install), check=False)).returncode:
        pytest.skip(f"Vega cannot be installed here: {done.stderr[-300:]}")
    project.run(*shlex.split(configure))


def test_plots_diff_draws_both_experiments(chromium, copied_run):
    offline(copied_run)
    copied_run.run("git", "add", "--all")
    copied_run.run("git", "commit", "--quiet", "--message", "tiny")
    for name, seed in (("one", 2), ("two", 3)):
        copied_run.run("dvc", "exp", "run", "--temp", "--name", name, "-S", f"train.seed={seed}", "evaluate@none")
    copied_run.run("dvc", "plots", "diff", "one", "two", "--out", "dvc_plots")
    page, said = chromium.new_page(viewport={"width": 1600, "height": 1200}), []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(request.url))
    page.goto((copied_run.folder / "dvc_plots" / "index.html").as_uri())
    page.wait_for_selector("svg.marks")
    page.wait_for_load_state("networkidle")
    if folder := os.environ.get("SLSR_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "plots-diff.png", full_page=True)
    assert said == []
    drawn = page.locator("svg.marks")
    titles = {drawn.nth(number).text_content(): drawn.nth(number) for number in range(drawn.count())}
    for title in ("Training loss", "CMC"):
        plot = next(one for text, one in titles.items() if title in text)
        words = plot.locator("text").all_text_contents()
        assert {"one", "two"} <= set(words), f"the legend of {title}"
        lines = plot.locator("g.mark-line path").evaluate_all("paths => paths.map(path => path.getAttribute('d'))")
        assert len(set(lines)) >= 2, "other seeds, other lines"
    pictures = page.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert len(pictures) >= 2
    assert all(width > 0 for width in pictures)
