"""Pictures: PNG files that open, the same bytes for the same content, other bytes for other content."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from tiny import noise

from slsr.reporting.figures import (
    Estimate,
    RankedRow,
    draw_clusters,
    draw_cmc,
    draw_curves,
    draw_estimates,
    draw_ranked_lists,
)


def points(seed=0):
    return np.random.default_rng(seed).normal(size=(60, 2)).astype(np.float32)


def clusterings(seed=0):
    generator = np.random.default_rng(seed)
    return {k: generator.integers(0, k, 60).astype(np.int32) for k in (3, 2)}


def ranked(seed=0, right=True):
    pixels = noise(5, 16, 8, seed=seed)
    marks = np.array([right, False, True, False])
    short = RankedRow("2", pixels[1], pixels[2:4], marks[:2])
    return [RankedRow("identity 1\ncamera 2", pixels[0], pixels[1:], marks), short]


def cmc_curves(first):
    return {"none": np.linspace(0.5, 1, 50), "slsr": np.linspace(first, 1, 50)}


def line(slope):
    return np.arange(1, 9), slope * np.linspace(0.0, 1.0, 8)


def estimates(value):
    bar = (value - 0.1, value + 0.1)
    return [Estimate("none", None, None, []), Estimate("slsr", value, bar, [value - 0.05, value + 0.05], value + 0.2)]


PICTURES = {
    "clusters": (
        lambda path: draw_clusters(path, points(), clusterings()),
        lambda path: draw_clusters(path, points(), clusterings(1)),
    ),
    "many clusters": (
        lambda path: draw_clusters(path, points(), {12: np.arange(60, dtype=np.int32) % 12}),
        lambda path: draw_clusters(path, points(1), {12: np.arange(60, dtype=np.int32) % 12}),
    ),
    "cmc": (
        lambda path: draw_cmc(path, {"plain": cmc_curves(0.6), "re-ranked": cmc_curves(0.7)}, "title"),
        lambda path: draw_cmc(path, {"plain": cmc_curves(0.6), "re-ranked": cmc_curves(0.8)}, "title"),
    ),
    "curves": (
        lambda path: draw_curves(path, {"loss": {"none": line(1), "slsr": line(2)}}, "epoch"),
        lambda path: draw_curves(path, {"loss": {"none": line(1), "slsr": line(3)}}, "epoch"),
    ),
    "estimates": (
        lambda path: draw_estimates(
            path, {"mAP": estimates(0.5), "difference": estimates(0.1)}, "note", ["difference"]
        ),
        lambda path: draw_estimates(
            path, {"mAP": estimates(0.5), "difference": estimates(0.2)}, "note", ["difference"]
        ),
    ),
    "ranked lists": (
        lambda path: draw_ranked_lists(path, ranked(), "title"),
        lambda path: draw_ranked_lists(path, ranked(right=False), "title"),
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_opens_and_depends_on_its_content_alone(tmp_path, name):
    draw, draw_another = PICTURES[name]
    draw(tmp_path / "new" / "one.png")
    draw(tmp_path / "two.png")
    draw_another(tmp_path / "three.png")
    content = (tmp_path / "new" / "one.png").read_bytes()
    assert content == (tmp_path / "two.png").read_bytes()
    assert content != (tmp_path / "three.png").read_bytes()
    with Image.open(io.BytesIO(content)) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) > 100
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10
        assert "Software" not in picture.info
        assert not any("date" in key.lower() or "time" in key.lower() for key in picture.info)
    assert plt.get_fignums() == [], "every figure is closed"


def has_color(path, color):
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(pixels - wanted).max(axis=2) < 8).sum() > 20)


def test_right_and_wrong_matches_are_framed_in_their_colors(tmp_path):
    gray = np.full((4, 16, 8, 3), 128, np.uint8)
    for marks, shown, hidden in (([True] * 4, "#009E73", "#D55E00"), ([False] * 4, "#D55E00", "#009E73")):
        draw_ranked_lists(tmp_path / "r.png", [RankedRow("x", gray[0], gray, np.array(marks))], "t")
        assert has_color(tmp_path / "r.png", shown)
        assert not has_color(tmp_path / "r.png", hidden)


def test_every_run_has_its_curve(tmp_path):
    curves = {name: np.linspace(0.2 * number, 0.9, 20) for number, name in enumerate("abc")}
    draw_cmc(tmp_path / "cmc.png", {"plain": curves}, "title")
    assert all(has_color(tmp_path / "cmc.png", color) for color in ("#0072B2", "#E69F00", "#009E73"))
    del curves["c"]
    draw_cmc(tmp_path / "cmc.png", {"plain": curves}, "title")
    assert not has_color(tmp_path / "cmc.png", "#009E73")


def test_a_published_value_stands_out(tmp_path):
    draw_estimates(tmp_path / "with.png", {"mAP": estimates(0.5)}, "note")
    draw_estimates(tmp_path / "without.png", {"mAP": [Estimate("slsr", 0.5, (0.4, 0.6), [0.5])]}, "note")
    assert has_color(tmp_path / "with.png", "#D55E00")
    assert not has_color(tmp_path / "without.png", "#D55E00")


def test_many_values_of_k_fit_a_page(tmp_path):
    for number in (2, 4, 7):
        draw_clusters(
            tmp_path / "c.png", points(), {k: np.arange(60, dtype=np.int32) % k for k in range(2, 2 + number)}
        )
        with Image.open(tmp_path / "c.png") as picture:
            assert picture.width <= 1400
