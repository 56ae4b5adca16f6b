"""Which experiments a study consists of, and how they are named."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from slsr.errors import CheckFailed, InputError
from slsr.experiments.study import Study, numbers, read_study, settings_of, study_names, values_of_parameters
from slsr.experiments.study_runs import Experiment, plan, run_study, targets_of
from slsr.params.presets import render_preset

ROOT = Path(__file__).parents[2]
ALL = ["none", "lsro", "slsr"]
STUDIED = ["lsr", "slsr-weighted", "slsr-nearest", "one-hot", "mprl"]


@pytest.fixture
def checkout(tmp_path):
    """The files that a plan reads."""
    for name in ("dvc.yaml", "params.yaml", "data.dvc"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for name in ("src", "splits", "weights", "studies"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def study(vary=None, seeds=(1,), **fields):
    return Study(vary=vary or {}, seeds=list(seeds), **fields)


def overrides(of_study, sweep=(2, 3)):
    return [setting.overrides for setting in settings_of(of_study, sweep)]


def test_seeds_are_numbers_and_ranges():
    assert numbers("1-3,7", "--seeds") == [1, 2, 3, 7]
    for text in ("", "a", "3-1", "-2"):
        with pytest.raises(InputError, match="--seeds"):
            numbers(text, "--seeds")


def test_values_are_read_as_params_yaml_is():
    found = values_of_parameters(["train.optimizer.learning_rate=1e-3,0.01", "cluster.sweep=[2,3],[2,4]", "a.b=x,null"])
    assert found == {
        "train.optimizer.learning_rate": [0.001, 0.01],
        "cluster.sweep": [[2, 3], [2, 4]],
        "a.b": ["x", None],
    }


@pytest.mark.parametrize("texts", [["cluster.k"], ["cluster.k="], ["=3"], ["a.b=[1"], ["a.b=1", "a.b=2"]])
def test_what_is_no_list_of_values_is_refused(texts):
    with pytest.raises(InputError, match="-S '"):
        values_of_parameters(texts)


def test_one_experiment_for_each_combination_and_seed(checkout):
    planned = plan(checkout, "table4", study({"train.backbone": ["resnet18", "resnet50"]}, [1, 2]))
    assert [one.overrides for one in planned] == [
        {"train.backbone": backbone, "train.seed": seed} for backbone in ("resnet18", "resnet50") for seed in (1, 2)
    ]
    assert {one.targets for one in planned} == {("report",)}
    assert len({one.name for one in planned}) == 4
    assert [one.name.rsplit("-", 1)[0] for one in planned][::3] == ["table4-resnet18-seed1", "table4-resnet50-seed2"]
    command = planned[3].command(queue=False)
    assert command[:4] == ["dvc", "exp", "run", "--temp"]
    assert command[-5:] == ["-S", "train.backbone=resnet50", "-S", "train.seed=2", "report"]


def test_values_reach_dvc_as_they_were_read(checkout):
    vary = {"dataset.identities": [None, 2], "evaluate.flip": [False], "cluster.sweep": [[2, 3]]}
    command = " ".join(plan(checkout, "s", study(vary))[0].command(queue=False))
    assert "-S dataset.identities=null -S evaluate.flip=false -S cluster.sweep=[2,3]" in command


def test_some_regularizers_run_alone():
    assert targets_of(["slsr", "none"]) == ("evaluate@none", "evaluate@slsr")


def test_a_k_that_the_sweep_does_not_have_is_added():
    of_study = study({"cluster.k": [2, 8], "generate.images": [24, 48]})
    assert overrides(of_study) == [
        {"cluster.k": 2, "generate.images": 24, "train.seed": 1},
        {"cluster.k": 2, "generate.images": 48, "train.seed": 1},
        {"cluster.k": 8, "cluster.sweep": [2, 3, 8], "generate.images": 24, "train.seed": 1},
        {"cluster.k": 8, "cluster.sweep": [2, 3, 8], "generate.images": 48, "train.seed": 1},
    ]
    assert overrides(study({"cluster.k": ["auto"]})) == [{"cluster.k": "auto", "train.seed": 1}]


def test_names_say_what_differs():
    vary = {"cluster.k": [2], "generate.images": [24], "train.epochs": [9], "generated.weight": [0.5], "a.b": ["x/..y"]}
    assert settings_of(study(vary, [4]), [2])[0].label == "k2-n24-e9-weight0.5-bx_y-seed4"
    assert settings_of(study({}, [4]), [2])[0].label == "seed4"


def test_a_seed_of_the_whole_pipeline_sets_the_seed_of_every_stage():
    setting = settings_of(study({"train.epochs": [9]}, [4], seeds_of="pipeline"), [2])[0]
    seeds = {key: value for key, value in setting.overrides.items() if key.endswith(".seed")}
    assert seeds == {f"{block}.seed": 4 for block in ("encoder", "cluster", "gan", "generate", "train")}
    assert setting.label == "e9-pipeline4"


def test_a_name_follows_code_data_and_parameters_but_not_what_it_overrides(checkout):
    def name():
        return plan(checkout, "s", study({"train.backbone": ["resnet18"]}))[0].name

    def changed(path, text, replacement):
        before = (checkout / path).read_text()
        assert text in before
        (checkout / path).write_text(before.replace(text, replacement, 1))
        found = name()
        (checkout / path).write_text(before)
        return found

    original = name()
    assert name() == original
    own = "backbone: tf_efficientnet_lite0 # as encoder.backbone"
    assert changed("params.yaml", own, "backbone: resnet50") == original
    assert changed("params.yaml", "epochs: 12", "epochs: 13") != original
    assert changed("src/slsr/labels/distributions.py", "import", "import ") != original
    assert changed("src/slsr/cli/main.py", "import", "import ") == original, "no stage depends on it"
    assert changed("data.dvc", "f2c9", "f2c8") != original
    assert changed("weights/imagenet", "ImageNet weights", "imageNet weights") != original


def test_a_name_follows_the_weights_that_the_experiment_itself_starts_from(checkout):
    def names():
        vary = {"encoder.weights": ["none"], "train.weights": ["none", "imagenet"]}
        return [one.name for one in plan(checkout, "s", study(vary))]

    before = names()
    (checkout / "weights" / "imagenet").write_text("other weights")
    assert names()[0] == before[0]
    assert names()[1] != before[1]


def test_studied_regularizers_are_switched_on_for_their_experiment(checkout):
    assert targets_of([*STUDIED, *ALL]) == (*(f"studies/dvc.yaml:evaluate@{name}" for name in STUDIED), "report")
    some = plan(checkout, "s", study(regularizers=["none", "lsr"]))[0]
    assert some.targets == ("evaluate@none", "studies/dvc.yaml:evaluate@lsr")
    assert some.overrides["studies.regularizers"] == ["lsr"]
    whole = plan(checkout, "s", study(regularizers=[*ALL, "one-hot"]))[0]
    assert whole.targets == ("studies/dvc.yaml:evaluate@one-hot", "report")
    assert 'studies.regularizers=["one-hot"]' in whole.command(queue=False)


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ({"train.epochz": [3]}, r"study s: train\.epochz: unknown key \(value 3\)"),
        ({"train.epochs.more": [3]}, r"train\.epochs\.more: unknown key"),
        ({"train.epochs": [12, 0]}, r"train\.epochs: 0 is not allowed; it must be greater than or equal to 1"),
        ({"generate.images": [0]}, r"generate\.images: 0 is not allowed"),
        ({"cluster.k": [3], "cluster.minibatch_above": [1]}, "minibatch_above"),
    ],
)
def test_a_parameter_that_cannot_have_the_value_is_refused_before_anything_runs(checkout, vary, said):
    with pytest.raises(InputError, match=said):
        plan(checkout, "s", study(vary))


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ({"train.backbone": ["resnet50", "resnet51"]}, r"train\.backbone 'resnet51': unknown; did you mean .*resnet50"),
        ({"encoder.pooling": ["class-token"]}, r"encoder\.pooling: class-token: backbone \w+ has no class token"),
        ({"train.backbone": ["skresnet50d"], "train.weights": ["imagenet"]}, r"train\.weights imagenet: timm has none"),
    ],
)
def test_a_network_that_cannot_be_is_refused_before_anything_runs(checkout, monkeypatch, run_slsr, vary, said):
    """By the plan, and by the command, which has started no DVC by then."""
    with pytest.raises(InputError, match=said):
        plan(checkout, "s", study(vary))
    started = []
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **_: started.append(arguments))
    monkeypatch.chdir(checkout)
    values = [part for key, some in vary.items() for part in ("-S", f"{key}={','.join(some)}")]
    code, out, error = run_slsr("study", "s", *values)
    assert code == 2
    assert re.search(said, out + error)
    assert started == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"regularizers": ["magic"]}, "regularizer 'magic': choose one of none, lsr, lsro"),
        ({"regularizers": []}, r"regularizers: \[\] is not allowed; it must have at least 1 item"),
        ({"seeds": [1, 1]}, r"seeds \[1, 1\] has a value twice"),
        ({"vary": {"cluster.k": [2, 2]}}, r"cluster\.k \[2, 2\] has a value twice"),
        ({"vary": {"train.seed": [1, 2]}}, "vary has train.seed, which `seeds` or `regularizers` set"),
        ({"vary": {"gan.seed": [1, 2]}, "seeds_of": "pipeline"}, r"vary has gan\.seed"),
        ({"vary": {"studies.regularizers": [["mprl"]]}}, r"vary has studies\.regularizers"),
        ({"vary": {"train.steps": [9]}, "steps": "equal"}, r"vary has train\.steps, which `steps: equal` sets"),
        ({"steps": "same"}, "steps: 'same' is not allowed"),
    ],
)
def test_a_study_that_contradicts_itself_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        read_study(ROOT, "new", {"seeds": [1]} | options)


def test_the_tables_of_the_paper_have_files():
    assert study_names(ROOT) == ["equal-steps", "market1501-lite", "splits", "splits20", "table2", "table4"]
    name, table = read_study(ROOT, "table2", {})
    assert name == "table2"
    assert table.vary["cluster.k"] == [2, 3, 4]
    assert table.vary["generate.images"] == [12000, 18000, 24000, 30000, 36000]
    assert len(settings_of(table, [2, 3, 4, 5])) == 3 * 5 * len(table.seeds)
    assert read_study(ROOT, "studies/table4.yaml", {})[1].vary == {"train.backbone": ["resnet50", "densenet121"]}
    for known in ("table2", "table4"):
        assert plan(ROOT, *read_study(ROOT, known, {}))


@pytest.mark.parametrize(("study_file", "preset", "count"), [("splits", "viper", 10), ("splits20", "cuhk03", 20)])
def test_the_splits_of_a_data_set_have_a_file(checkout, study_file, preset, count):
    (checkout / "params.yaml").write_text(render_preset(ROOT / "presets", preset))
    planned = plan(checkout, *read_study(checkout, study_file, {}))
    assert [one.overrides["dataset.split"] for one in planned] == list(range(1, count + 1))
    assert all(one.targets == ("report",) for one in planned)
    with pytest.raises(InputError, match="split 1 means nothing for name: market1501"):
        plan(ROOT, *read_study(ROOT, study_file, {}))


def test_a_name_follows_the_file_of_halves(checkout):
    values = render_preset(ROOT / "presets", "viper").replace("split_file: none", "split_file: halves.txt")
    (checkout / "params.yaml").write_text(values)
    names = []
    for content in ("1 2", "1 2", "2 1"):
        (checkout / "splits/halves.txt").write_text(content)
        names.append(plan(checkout, "s", study())[0].name)
    assert names[0] == names[1] != names[2]
    (checkout / "splits/halves.txt").unlink()
    with pytest.raises(InputError, match=r"splits/halves.txt: no such file"):
        plan(checkout, "s", study())


@pytest.fixture
def prepared(checkout):
    """A checkout in which `prepare` has run: dvc.lock records it, and DVC's cache has its facts."""
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]["prepare"]
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text())
    lock["params"]["params.yaml"] = {"dataset": parameters["dataset"]}
    text = json.dumps({"splits": {"train": {"images": 400}, "validation": {"images": 32}}})
    digest = hashlib.md5(text.encode()).hexdigest()
    next(one for one in lock["outs"] if one["path"] == "artifacts/prepared/facts.json")["md5"] = digest
    (checkout / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"prepare": lock}}))
    facts = checkout / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    facts.parent.mkdir(parents=True)
    facts.write_text(text)
    (checkout / ".dvc/config").write_text("")
    return checkout


def test_equal_steps_are_those_of_the_arm_with_generated_images(prepared):
    """400 real images: with 192 generated ones an epoch has 19 batches of 32, with 241 (one is left over) 20."""
    name, equal = read_study(ROOT, "equal-steps", {"vary": {"generate.images": [192, 241]}, "seeds": [1, 2]})
    assert equal.regularizers == ALL
    planned = plan(prepared, name, equal)
    assert [one.overrides["train.steps"] for one in planned] == [12 * 19] * 2 + [12 * 20] * 2
    assert planned[0].name.startswith("equal-steps-n192-equal-seed1-")
    assert "-S train.steps=228" in " ".join(planned[0].command(queue=False))
    longer = plan(prepared, "s", study({"train.epochs": [12, 24]}, steps="equal"))
    assert [one.overrides["train.steps"] for one in longer] == [12 * 19, 24 * 19]
    as_given = plan(prepared, "s", study({"train.epochs": [12]}))
    assert "train.steps" not in as_given[0].overrides
    assert as_given[0].name != longer[0].name


def test_equal_steps_of_batches_of_identities_count_real_images_alone(prepared):
    """Generated ones come beside the 32 real ones of a batch: a pass has 400 / 32 = 12.5 steps, whatever N is."""
    recipe = {"train.epochs": [12], "train.batch_size": [32], "train.images_per_identity": [4]}
    recipe |= {"train.triplet.weight": [0.0], "generate.images": [192, 4000]}
    planned = plan(prepared, "s", study(recipe | {"train.sampler": ["identities"]}, steps="equal"))
    assert [one.overrides["train.steps"] for one in planned] == [12 * 13] * 2
    planned = plan(prepared, "s", study(recipe | {"train.sampler": ["shuffle"]}, steps="equal"))
    assert [one.overrides["train.steps"] for one in planned] == [12 * 19, 12 * 138]


def test_equal_steps_need_the_data_that_was_prepared(prepared):
    with pytest.raises(InputError, match=r"in dvc\.lock has another dataset\.identities; set .*dvc repro prepare"):
        plan(prepared, "s", study({"dataset.identities": [8]}, steps="equal"))
    (prepared / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    with pytest.raises(InputError, match="run `dvc repro`"):
        plan(prepared, "s", study(steps="equal"))


def test_all_splits_of_a_data_set_get_the_same_equal_steps(prepared):
    lock = yaml.safe_load((prepared / "dvc.lock").read_text())
    params = yaml.safe_load((prepared / "params.yaml").read_text())
    params["dataset"] |= {"name": "viper", "split": 1}
    (prepared / "params.yaml").write_text(yaml.safe_dump(params))
    lock["stages"]["prepare"]["params"]["params.yaml"] = {"dataset": params["dataset"]}
    (prepared / "dvc.lock").write_text(yaml.safe_dump(lock))
    planned = plan(prepared, "s", study({"dataset.split": [1, 2, 3]}, steps="equal"))
    assert [one.overrides["train.steps"] for one in planned] == [12 * 19] * 3


def test_options_replace_what_a_file_says():
    options = {"vary": {"generate.images": [24], "cluster.restarts": [5]}, "seeds": [7], "regularizers": ["slsr"]}
    _, found = read_study(ROOT, "table2", options)
    assert found.vary["cluster.k"] == [2, 3, 4]
    assert (found.vary["generate.images"], found.vary["cluster.restarts"]) == ([24], [5])
    assert (found.seeds, found.regularizers) == ([7], ["slsr"])


def test_a_new_study_needs_parameters_or_seeds():
    assert read_study(ROOT, "regularizers", {"seeds": [1, 2]})[1].regularizers == ALL
    for name in ("tabel2", "studies/tabel2.yaml"):
        with pytest.raises(InputError, match=r"choose one of equal-steps, market1501-lite, splits, splits20, table2,"):
            read_study(ROOT, name, {})
    with pytest.raises(InputError, match=r"no file my\.yaml"):
        read_study(ROOT, "my.yaml", {"seeds": [1]})
    with pytest.raises(InputError, match="use letters, digits"):
        read_study(ROOT, "a b", {"seeds": [1]})


def test_a_file_that_is_no_study_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text("varry: {cluster.k: [2]}\n")
    with pytest.raises(InputError, match=r"mine\.yaml: not valid\n  varry: unknown key"):
        read_study(tmp_path, "mine.yaml", {})
    (tmp_path / "mine.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match=r"mine\.yaml: holds list"):
        read_study(tmp_path, "mine.yaml", {})


def test_a_study_of_some_stages_needs_the_folders_of_the_lock_in_the_cache(tmp_path):
    """Otherwise DVC fails when the first experiment has run for its whole time."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    digest = hashlib.md5(b"[]").hexdigest()
    lock = {"stages": {"train_gan": {"cmd": "x", "outs": [{"path": "artifacts/gan", "md5": f"{digest}.dir"}]}}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock))
    experiment = Experiment("s-seed1-0", {"train.seed": 1}, ("evaluate@none",))
    with pytest.raises(InputError, match=r"lacks the folder artifacts/gan of dvc\.lock.*run `dvc repro` or `dvc pull`"):
        run_study(tmp_path, "s", [experiment], dry_run=False, queue=False, say=print)
    stored = tmp_path / ".dvc/cache/files/md5" / digest[:2] / f"{digest[2:]}.dir"
    stored.parent.mkdir(parents=True)
    stored.write_bytes(b"[]")
    with pytest.raises(CheckFailed, match="s-seed1-0 failed"):  # there is no pipeline, but the folder is there
        run_study(tmp_path, "s", [experiment], dry_run=False, queue=False, say=print)
