"""Model cards: of the committed run, and never with the numbers of another."""

import json
import shutil

import pytest
import yaml
from tiny import ROOT

from slsr.errors import CheckFailed, InputError
from slsr.project.revisions import md5_of
from slsr.reporting.model_card import model_card

ARTIFACTS = yaml.safe_load((ROOT / "dvc.yaml").read_text())["artifacts"]
LEGS = {"baseline": "none", "lsro": "lsro", "slsr": "slsr"}


@pytest.fixture
def run(tmp_path):
    """What git keeps of a run, its hashes made to fit: elsewhere a test says that the committed ones do."""
    for name in ("dvc.yaml", "dvc.lock"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "metrics", tmp_path / "metrics")
    return tmp_path


@pytest.mark.parametrize("name", ARTIFACTS)
def test_every_artifact_has_a_card_with_all_its_parts(run, name):
    card = model_card(name, run)
    assert card.startswith(f"# {name}\n")
    for part in ("## Data", "## Recipe", "## Numbers", "## Limits", "## Ethics", "## Use"):
        assert f"\n{part}\n" in card
    assert ARTIFACTS[name]["path"] in card
    assert "None" not in card
    assert "nan" not in card.split()


@pytest.mark.parametrize(("name", "leg"), LEGS.items())
def test_the_numbers_are_those_of_the_model(run, name, leg):
    card = model_card(name, run)
    measured = json.loads((run / "metrics" / f"{leg}.json").read_text())["single_query"]
    low, high = measured["map_trapezoid_ci95"]
    row = next(line for line in card.splitlines() if line.startswith("| single query  "))
    assert f"{100 * measured['map_trapezoid']:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in row
    assert f"of {measured['queries']} queries of {measured['people']} people" in card
    difference = json.loads((run / "metrics" / "comparison.json").read_text()).get(f"{leg}_minus_none")
    assert ("Minus the baseline" in card) == (difference is not None)
    if difference:
        assert f"{100 * difference['single_query']['rank1']['difference']:+.1f} [" in card


def test_the_hash_and_the_recipe_are_those_of_the_lock(run):
    lock = yaml.safe_load((run / "dvc.lock").read_text())["stages"]["train@slsr"]
    card = model_card("slsr", run)
    (out,) = (out for out in lock["outs"] if out["path"].endswith("model.safetensors"))
    recipe = lock["params"]["params.yaml"]["train"]
    assert out["md5"] in card
    assert f"{recipe['epochs']} epochs" in card
    assert recipe["backbone"] in card


def rewrite(run, name, change):
    """Change a file of metrics, and its hash in dvc.lock, as a run that measured this would have."""
    path, lock = run / "metrics" / name, run / "dvc.lock"
    before = md5_of(path.read_bytes())
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    lock.write_text(lock.read_text().replace(before, md5_of(path.read_bytes())))


def test_metrics_without_people_are_of_an_earlier_version(run):
    rewrite(
        run, "slsr.json", lambda old: {k: {n: v for n, v in one.items() if n != "people"} for k, one in old.items()}
    )
    with pytest.raises(CheckFailed, match=r"slsr\.json: no number of people; it is of an earlier version"):
        model_card("slsr", run)


def test_one_person_has_no_interval(run):
    def alone(old):
        return {
            ranking: one | {key: None for key in one if key.endswith("_ci95")} | {"people": 1}
            for ranking, one in old.items()
        }

    def differences(old):
        none = {"difference": 0.25, "ci95": None, "p": None}
        return old | {"slsr_minus_none": {"single_query": {"rank1": none, "map_trapezoid": none}}}

    rewrite(run, "slsr.json", alone)
    rewrite(run, "comparison.json", differences)
    card = model_card("slsr", run)
    assert "of 1 people" in card
    assert "rank-1 +25.0 (one person: no interval)" in card
    assert "None" not in card
    assert "p = " not in card


def test_metrics_of_another_run_are_refused(run):
    path = run / "metrics" / "slsr.json"
    path.write_text(path.read_text().replace("0.7", "0.9"))
    with pytest.raises(CheckFailed, match=r"metrics/slsr\.json"):
        model_card("slsr", run)


@pytest.mark.parametrize(
    ("stage", "name"), [("train@slsr", "slsr"), ("train_encoder", "encoder"), ("evaluate@none", "lsro")]
)
def test_a_stage_that_ran_again_without_the_report_is_refused(run, stage, name):
    """Its new output has a hash that those who read it have not seen: the metrics are of the one before."""
    text = (run / "dvc.lock").read_text()
    outs = yaml.safe_load(text)["stages"][stage]["outs"]
    out = next(out for out in outs if out["path"].endswith(("metrics.json", "model.safetensors")))
    place = text.index(f"{out['path']}\n", text.index("    outs:", text.index(f"  {stage}:\n")))
    (run / "dvc.lock").write_text(text[:place] + text[place:].replace(out["md5"], 32 * "f", 1))
    with pytest.raises(CheckFailed, match=rf"has not read the {out['path']} that {stage} wrote last"):
        model_card(name, run)


def test_an_unknown_artifact_names_the_known_ones(run):
    with pytest.raises(InputError, match="encoder, baseline"):
        model_card("best", run)


@pytest.mark.parametrize("missing", ["dvc.lock", "metrics/none.json"])
def test_a_missing_file_is_named(run, missing):
    (run / missing).unlink()
    with pytest.raises(InputError, match=missing):
        model_card("baseline", run)


def test_real_people_change_the_ethics_and_drawn_ones_the_limits(run):
    drawn = model_card("generators", run)
    assert "drawn figures only" in drawn
    text = (run / "dvc.lock").read_text()
    (run / "dvc.lock").write_text(text.replace("archive: slsr-sample.zip", "archive: Market-1501-v15.09.15.zip"))
    real = model_card("generators", run)
    assert "real people" in real
    assert "drawn figures" not in real
