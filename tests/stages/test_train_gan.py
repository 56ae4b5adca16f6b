"""The stage `train_gan`: kinds of generators, collapse, interruption, several processes."""

import json
import multiprocessing
import os
import random
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
import yaml
from clustered_project import CLUSTERS, LABELS, make_params
from PIL import Image
from threadpoolctl import threadpool_limits
from tiny import ROOT

from slsr.errors import CheckFailed, InputError
from slsr.files import write_json
from slsr.gan import attempts
from slsr.gan.attempts import Attempt, choose
from slsr.gan.collapse import CollapseCheck, CollapseDetector
from slsr.gan.loop import GanEpoch
from slsr.gan.networks import draw_images, draw_noise, load_generator
from slsr.gan.steps import Adversaries
from slsr.images.tables import table_writer
from slsr.models.checkpoint import load_checkpoint
from slsr.params.file import run_with_blocks
from slsr.runtime.spread import spread
from slsr.stages import generate, train_gan
from slsr.stages.cluster import ASSIGNMENT
from slsr.stages.paths import ASSIGNMENTS, CLUSTER_IDENTITIES, GAN, GENERATED
from slsr.stages.train_gan import curves


def outputs(folder: Path = GAN) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (GAN / name).read_text().splitlines()]


def assign(clusters: np.ndarray) -> None:
    """Put the project's images into other clusters."""
    rows = pq.read_table(ASSIGNMENTS).to_pylist()
    with table_writer(ASSIGNMENTS, ASSIGNMENT) as table:
        for row, cluster in zip(rows, clusters, strict=True):
            table.append(row | {"cluster": int(cluster)})
    found = [
        {"cluster": cluster, "images": int((clusters == cluster).sum()), "labels": labels, "counts": [1] * len(labels)}
        for cluster in range(clusters.max() + 1)
        for labels in [sorted(set(LABELS[clusters == cluster].tolist()))]
    ]
    write_json(CLUSTER_IDENTITIES, {"classes": 6, "clusters": found})


def test_files_of_a_run(project):
    run_with_blocks(train_gan.run, make_params())
    pictures = [f"{name}_{cluster}.png" for name in ("preview", "progress") for cluster in (0, 1)]
    assert sorted(outputs()) == sorted(
        ["checks.jsonl", "cluster_0.safetensors", "cluster_1.safetensors", "curves.csv", "statistics.jsonl",
         "training.webp", *pictures]
    )  # fmt: skip
    moving = Image.open(GAN / "training.webp")
    assert moving.n_frames == 2
    assert moving.size == (16 * 64, 2 * (64 + 26))
    assert not list(Path(".scratch").rglob("*.pt"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 2}, "2 of 2 clusters .*the least: cluster 0, 18 images, 6 steps"),
        ({"minimum_steps": 1000}, None),
        ({"parent_epochs": 167, "kind": "per-cluster"}, None),
        ({"epochs": 334}, "1 of 2 clusters"),
    ],
)
def test_generators_of_few_steps_are_named_before_they_are_trained(project, monkeypatch, caplog, options, said):
    """18 and 24 images in batches of 8: three steps an epoch each; 42 in all: six for the parent."""
    if options.get("epochs") == 334:
        assign(np.array([0] * 8 + [1] * 34))
    trained = []
    monkeypatch.setattr(train_gan, "train_all", lambda *arguments: trained.append(1) or iter(()))
    monkeypatch.setattr(train_gan, "_write", lambda *arguments: None)
    run_with_blocks(train_gan.run, make_params(gan=options))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert trained
    assert len(warnings) == (said is not None)
    assert said is None or re.search(said, warnings[0])


def test_a_conditional_generator_draws_every_cluster(project):
    params = make_params(gan={"kind": "conditional", "epochs": 3})
    run_with_blocks(train_gan.run, params)
    first = outputs()
    assert "conditional.safetensors" in first
    assert not [name for name in first if name.startswith("cluster_")]
    assert {line["cluster"] for line in lines("statistics.jsonl")} == {None}
    assert [line["cluster"] for line in lines("checks.jsonl")] == [0, 1]
    run_with_blocks(generate.run, params)
    table = pq.read_table(GENERATED / "images.parquet").to_pylist()
    assert [row["cluster"] for row in table] == [0] * 16 + [1] * 15
    generator = load_generator(GAN / "conditional.safetensors")
    noise = draw_noise((1, 1), 100, 8)
    assert np.array_equal(draw_images(generator, noise[:7], 1), draw_images(generator, noise, 1)[:7])
    assert not np.array_equal(draw_images(generator, noise[:7], 0), draw_images(generator, noise[:7], 1))
    run_with_blocks(train_gan.run, params)
    assert outputs() == first


def test_a_conditional_generator_of_other_clusters_is_refused(project):
    params = make_params(gan={"kind": "conditional", "epochs": 1})
    run_with_blocks(train_gan.run, params)
    assign(np.arange(42) % 3)
    with pytest.raises(InputError, match=r"conditional\.safetensors: knows 2 clusters, but .*identities\.json has 3"):
        run_with_blocks(generate.run, params)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["per-cluster", "conditional"])
def test_forty_clusters_end_to_end(project, kind):
    clusters = np.concatenate([np.arange(40), [0, 1]])
    assign(clusters)
    params = make_params(gan={"kind": kind, "epochs": 1}, generate={"images": 100})
    run_with_blocks(train_gan.run, params)
    run_with_blocks(generate.run, params)
    rows = pq.read_table(GENERATED / "images.parquet").column("cluster").to_pylist()
    assert np.bincount(rows).tolist() == [3] * 20 + [2] * 20
    assert len(list(GAN.glob("*.safetensors"))) == (40 if kind == "per-cluster" else 1)
    assert len(list(GAN.glob("preview_*.png"))) == 8
    assert len(json.loads((GENERATED / "quality.json").read_text())["clusters"]) == 40


def test_one_cluster(project):
    assign(np.zeros(42, int))
    run_with_blocks(train_gan.run, make_params())
    assert (GAN / "curves.csv").read_text().count("\n") == 3


IMPOSSIBLE = {"coverage": 1.0, "duplicates": 0.0, "restarts": 2}


def test_collapse_stops_with_the_cluster_and_the_measure(project):
    with pytest.raises(CheckFailed, match=r"cluster 0: the generator collapsed, .*coverage 0\.\d+ \(below 1\).*stop"):
        run_with_blocks(train_gan.run, make_params(gan={"on_collapse": "stop", "collapse": IMPOSSIBLE}))
    assert not GAN.exists()


def test_collapse_warns(project, caplog):
    run_with_blocks(train_gan.run, make_params(gan={"collapse": IMPOSSIBLE}))
    assert "cluster 1: the generator collapsed" in caplog.text
    assert [(line["cluster"], line["attempt"], line["collapsed"]) for line in lines("checks.jsonl")] == [
        (0, 0, True),
        (1, 0, True),
    ]


@pytest.mark.slow
def test_collapse_restarts_from_other_seeds_a_few_times_and_the_same_bytes_again(project, caplog):
    params = make_params(gan={"on_collapse": "restart", "collapse": IMPOSSIBLE})
    run_with_blocks(train_gan.run, params)
    first = outputs()
    checks = lines("checks.jsonl")
    assert [(line["cluster"], line["attempt"]) for line in checks] == [(c, a) for c in (0, 1) for a in (0, 1, 2)]
    starts = [line for line in lines("statistics.jsonl") if line["number"] == 1]
    assert len({line["generator_loss"] for line in starts}) == 6, "every attempt draws other numbers"
    assert "collapsed from 3 seeds" in caplog.text
    run_with_blocks(train_gan.run, params)
    assert outputs() == first
    harmless = {**IMPOSSIBLE, "coverage": 0.0, "duplicates": 1.0}
    run_with_blocks(train_gan.run, make_params(gan={"on_collapse": "restart", "collapse": harmless}))
    assert [line["attempt"] for line in lines("checks.jsonl")] == [0, 0]


def test_a_second_attempt_that_is_sound_is_the_generator_that_stays(project, monkeypatch):
    check = CollapseDetector.check

    def first_of_cluster_1_collapses(detector, generator, cluster, attempt):
        found = check(detector, generator, cluster, attempt)
        return replace(found, collapsed=(cluster, attempt) == (1, 0), coverage=0.1)

    choice = {"on_collapse": "restart", "collapse": IMPOSSIBLE | {"coverage": 0.5, "duplicates": 1.0}}
    run_with_blocks(train_gan.run, make_params())
    without = outputs()
    monkeypatch.setattr(CollapseDetector, "check", first_of_cluster_1_collapses)
    run_with_blocks(train_gan.run, make_params(gan=choice))
    assert [(line["cluster"], line["attempt"]) for line in lines("checks.jsonl")] == [(0, 0), (1, 0), (1, 1)]
    assert [load_checkpoint(GAN / f"cluster_{one}.safetensors")[1]["extra"]["attempt"] for one in (0, 1)] == [0, 1]
    kept = outputs()
    assert kept["cluster_0.safetensors"] == without["cluster_0.safetensors"]
    assert kept["cluster_1.safetensors"] != without["cluster_1.safetensors"]
    assert kept["preview_1.png"] != without["preview_1.png"], "the pictures are those of the attempt that stays"


def test_the_first_sound_attempt_is_chosen_else_the_one_that_covers_most():
    def attempt(number, coverage, collapsed):
        return Attempt(0, number, (1, 0, 0, number), None, [CollapseCheck(0, number, coverage, 0.0, collapsed)])

    assert choose([attempt(0, 0.2, True), attempt(1, 0.6, False)]).number == 1
    assert choose([attempt(0, 0.2, True), attempt(1, 0.4, True), attempt(2, 0.1, True)]).number == 1


def test_curves_are_over_the_clusters_still_training():
    def epochs(*losses):
        return [GanEpoch(number, 8, 1.0, loss, 0.5, 0.5, None) for number, loss in enumerate(losses, 1)]

    table = [line.split(",") for line in curves([epochs(1, 5), epochs(2), epochs(6, 7)]).splitlines()]
    column = table[0].index("generator_loss_lowest")
    assert [row[column : column + 3] for row in table[1:]] == [["1", "2", "6"], ["5", "6.0", "7"]]


def test_every_plotted_column_is_there_whatever_the_number_of_clusters():
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    columns = [
        column
        for plot in plots
        if isinstance(plot, dict)
        for options in plot.values()
        for file, names in options.get("y", {}).items()
        if file == "artifacts/gan/curves.csv"
        for column in (names if isinstance(names, list) else [names])
    ]
    assert len(columns) == 5
    for count in (1, 2, 300):
        header = curves([[GanEpoch(1, 8, 1.0, 1.0, 0.5, 0.5, None)]] * count).splitlines()[0].split(",")
        assert set(columns) | {"epoch"} <= set(header)


def test_tasks_are_spread_evenly():
    assert spread([5, 9, 4, 5], 2) == [1, 0, 0, 1]
    assert spread([3, 2, 1], 1) == [0, 0, 0]
    costs = np.random.default_rng(1).integers(1, 100, 300).tolist()
    load = np.bincount(spread(costs, 8), costs)
    assert load.max() - load.min() <= max(costs)


CHOICES = {"parent_epochs": 2, "epochs": 3, "ema": 0.9, "augmentation": ["translation"], "spectral_norm": True}


def train_in(folder: Path, choices: dict) -> None:
    """Run the stage in a process of its own, which saves its state after every step."""
    os.chdir(folder)
    os.environ["SLSR_SAVE_EVERY"] = "0.00001 minutes"
    torch.set_num_threads(1)
    with threadpool_limits(1):
        run_with_blocks(train_gan.run, make_params(gan=choices))


def killed_and_run_again(folder: Path, kills: int, seed: int, choices: dict) -> int:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    moments, done, starts = random.Random(seed), 0, 0
    while True:
        starts += 1
        assert starts < 20 * kills, "the run makes no progress between kills"
        process = context.Process(target=train_in, args=(folder, choices))
        process.start()
        process.join(moments.uniform(0.1, 1.5) if done < kills else 300)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            done += 1
            continue
        assert process.exitcode == 0
        if done >= kills:
            return done


@pytest.mark.parametrize(
    ("kills", "choices"),
    [
        (1, CHOICES),
        pytest.param(14, CHOICES, marks=pytest.mark.slow),
        pytest.param(10, {"kind": "conditional", "epochs": 6}, marks=pytest.mark.slow),
    ],
)
def test_kills_at_random_moments_change_nothing(project, kills, choices):
    run_with_blocks(train_gan.run, make_params(gan=choices))
    expected = outputs()
    assert killed_and_run_again(project, kills, kills, choices) == kills
    assert outputs() == expected
    assert not list(Path(".scratch").rglob("*.pt")), "the state goes when the run has ended"
    assert sorted(path.name for path in GAN.parent.iterdir() if "gan" in path.name) == ["gan"]


def test_finished_clusters_are_not_trained_again(project, monkeypatch):
    real, asked = attempts.train_gan, []

    def broken(pixels, settings, seed, device, title, *rest, **options):
        asked.append(title)
        if title == "cluster 1" and asked.count(title) == 1:
            raise CheckFailed("the power fails")
        return real(pixels, settings, seed, device, title, *rest, **options)

    run_with_blocks(train_gan.run, make_params())
    expected = outputs()
    monkeypatch.setattr(attempts, "train_gan", broken)
    with pytest.raises(CheckFailed, match="power"):
        run_with_blocks(train_gan.run, make_params())
    steps, taken = [], Adversaries.train_step
    monkeypatch.setattr(Adversaries, "train_step", lambda *arguments: steps.append(1) or taken(*arguments))
    run_with_blocks(train_gan.run, make_params())
    assert len(steps) == 2 * 3, "two epochs of three batches: cluster 1 alone"
    assert outputs() == expected


def one_of(rank: int, folder: Path, choices: dict) -> None:
    meeting = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    train_in(folder, choices)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(("clusters", "choices"), [(5, CHOICES), (2, {"kind": "conditional"})])
def test_two_processes_write_what_one_writes(project, clusters, choices):
    assign(np.sort(np.arange(42) % clusters) if clusters > 2 else CLUSTERS)
    run_with_blocks(train_gan.run, make_params(gan=choices))
    expected = outputs()
    for name in expected:
        (GAN / name).unlink()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    processes = [context.Process(target=one_of, args=(rank, project, choices)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    assert outputs() == expected
