"""Which experiments a study consists of, and how they are named."""

import shutil
from pathlib import Path

import pytest

from slsr.errors import InputError
from slsr.experiments.study import (
    cluster_settings,
    epoch_settings,
    image_settings,
    numbers,
    plan,
    regularizer_settings,
    targets_of_regularizers,
)

ROOT = Path(__file__).parents[2]
ALL = ("none", "lsro", "slsr")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """The files that a plan reads."""
    for name in ("dvc.yaml", "params.yaml", "data.dvc"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for name in ("src", "weights"):
        shutil.copytree(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_seeds_are_numbers_and_ranges():
    assert numbers("1-3,7", "--seeds") == [1, 2, 3, 7]
    for text in ("", "a", "3-1", "1,1", "-2"):
        with pytest.raises(InputError, match="--seeds"):
            numbers(text, "--seeds")


def test_one_experiment_a_backbone_and_seed(checkout):
    planned = plan("regularizers", regularizer_settings([1, 2], ["resnet18", "resnet50"], ALL))
    assert [one.overrides for one in planned] == [
        {"train.backbone": backbone, "train.seed": seed} for backbone in ("resnet18", "resnet50") for seed in (1, 2)
    ]
    assert {one.targets for one in planned} == {("report",)}
    assert len({one.name for one in planned}) == 4
    command = planned[3].command(queue=False)
    assert command[:4] == ["dvc", "exp", "run", "--temp"]
    assert command[-5:] == ["-S", "train.backbone=resnet50", "-S", "train.seed=2", "report"]


def test_some_regularizers_run_alone(checkout):
    planned = plan("regularizers", regularizer_settings([1], ["resnet18"], ("slsr", "none")))
    assert planned[0].targets == ("evaluate@none", "evaluate@slsr")


def test_a_k_that_the_sweep_lacks_is_added():
    settings = cluster_settings([1], [2, 8], [24, 48], ("slsr",), [2, 3])
    assert [setting.overrides for setting in settings] == [
        {"cluster.k": 2, "generate.images": 24, "train.seed": 1},
        {"cluster.k": 2, "generate.images": 48, "train.seed": 1},
        {"cluster.k": 8, "cluster.sweep": [2, 3, 8], "generate.images": 24, "train.seed": 1},
        {"cluster.k": 8, "cluster.sweep": [2, 3, 8], "generate.images": 48, "train.seed": 1},
    ]


def test_no_generated_image_is_the_baseline():
    settings = image_settings([5], [0, 24], ALL)
    assert [(setting.overrides, setting.regularizers) for setting in settings] == [
        ({"train.seed": 5}, ("none",)),
        ({"generate.images": 24, "train.seed": 5}, ALL),
    ]


def test_epochs_by_seeds():
    settings = epoch_settings([1, 2], [12, 18], ("none",))
    assert [(setting.label, dict(setting.overrides)) for setting in settings] == [
        (f"e{epochs}-seed{seed}", {"train.epochs": epochs, "train.seed": seed})
        for epochs in (12, 18)
        for seed in (1, 2)
    ]
    assert {setting.regularizers for setting in settings} == {("none",)}


def test_a_seed_of_the_whole_pipeline_moves_every_stage_that_draws():
    settings = [
        *regularizer_settings([4], ["resnet18"], ALL, "pipeline"),
        *cluster_settings([4], [2], [24], ALL, [2, 3], "pipeline"),
        *image_settings([4], [24], ALL, "pipeline"),
        *epoch_settings([4], [9], ALL, "pipeline"),
    ]
    for setting in settings:
        seeds = {key: value for key, value in setting.overrides.items() if key.endswith(".seed")}
        blocks = ("encoder", "cluster", "gan", "generate", "train")
        assert seeds == {f"{block}.seed": 4 for block in blocks}
        assert setting.label.endswith("-pipeline4")
    assert image_settings([4], [0], ALL, "pipeline")[0].overrides == {"train.seed": 4}, "a baseline draws no more"


def test_a_name_follows_code_data_and_parameters_but_not_what_it_overrides(checkout):
    def name():
        return plan("s", regularizer_settings([1], ["resnet18"], ALL))[0].name

    def changed(path, text, replacement):
        before = Path(path).read_text()
        assert text in before
        Path(path).write_text(before.replace(text, replacement, 1))
        found = name()
        Path(path).write_text(before)
        return found

    original = name()
    assert changed("params.yaml", "backbone: densenet121", "backbone: resnet50") == original
    assert changed("params.yaml", "epochs: 12", "epochs: 13") != original
    assert changed("src/slsr/labels/distributions.py", "import", "import ") != original
    assert changed("src/slsr/cli/main.py", "import", "import ") == original, "no stage depends on it"
    assert changed("data.dvc", "f2c9", "f2c8") != original
    assert changed("weights/none", "From scratch", "from scratch") != original


def test_studied_regularizers_are_switched_on_for_their_experiment(checkout):
    assert list(targets_of_regularizers()) == [*ALL], "without studies/dvc.yaml"
    shutil.copytree(ROOT / "studies", checkout / "studies")
    assert list(targets_of_regularizers()) == [*ALL, "lsr", "slsr-weighted", "one-hot", "mprl"]
    some = plan("regularizers", regularizer_settings([1], ["resnet18"], ("none", "lsr")))[0]
    assert some.targets == ("evaluate@none", "studies/dvc.yaml:evaluate@lsr")
    assert some.overrides["studies.regularizers"] == ["lsr"]
    whole = plan("regularizers", regularizer_settings([1], ["resnet18"], (*ALL, "one-hot")))[0]
    assert whole.targets == ("studies/dvc.yaml:evaluate@one-hot", "report")
    assert 'studies.regularizers=["one-hot"]' in whole.command(queue=False)


def test_an_unknown_regularizer_is_refused(checkout):
    with pytest.raises(InputError, match="choose of none, lsro, slsr"):
        plan("regularizers", regularizer_settings([1], ["resnet18"], ("magic",)))


def test_no_regularizer_is_refused_instead_of_running_everything(checkout):
    with pytest.raises(InputError, match="none is named; choose of none, lsro, slsr"):
        plan("regularizers", regularizer_settings([1], ["resnet18"], ()))
