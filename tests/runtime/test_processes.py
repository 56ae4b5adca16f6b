"""Two processes compute what one does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from in_processes import in_two_processes
from timm.layers.norm_act import BatchNormAct2d
from tiny import STRONG, make_recipe, mixed
from torch import nn

from slsr.embedding.engine import extract_features
from slsr.errors import CheckFailed, InputError, Interrupted
from slsr.images.decoding import encode_jpeg
from slsr.images.loading import LabeledImages
from slsr.models.weights import initial_encoder
from slsr.params.recipe import Image
from slsr.runtime import spread
from slsr.runtime.devices import check_precision
from slsr.runtime.launch import join_processes, launched, processes_wanted
from slsr.runtime.processes import GlobalBatchNorm, gather_rows, share_of, synchronized_norm
from slsr.runtime.resume import Interval, kept
from slsr.training.classifier import TrainingSet, train_classifier

IMAGE = Image(
    height=32, width=32, resize_height=34, resize_width=34, interpolation="bilinear", test="whole", normalization="unit"
)
PAPER = make_recipe(
    {"name": "sgd", "learning_rate": 0.0003, "head_learning_rate": 0.0003},
    head="bottleneck",
    epochs=20,
    batch_size=13,
    random_crop=True,
    horizontal_flip=True,
    random_erasing=0.5,
    seed=3,
)
MODERN = make_recipe(
    {"name": "adam", "learning_rate": 0.0003, "head_learning_rate": 0.0003},
    backbone="tf_efficientnet_lite0",  # its batch norms end in an activation
    epochs=10,
    batch_size=6,
    random_crop=True,
    seed=3,
    **STRONG,
)
COUNT = 13  # does not divide by two: the shares differ


def train_and_extract(
    folder: Path, dtype: torch.dtype = torch.float64, modern: bool = False
) -> tuple[list[float], np.ndarray]:
    """Twenty steps, then features; what each process gets.

    In float64 rounding stays invisible, so that whatever differs is computed otherwise.
    """
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (COUNT, 34, 34, 3), dtype=torch.uint8, generator=generator)
    images = LabeledImages(pixels, torch.arange(COUNT) % 3)
    recipe, training = (MODERN, mixed(COUNT)) if modern else (PAPER, TrainingSet.of_labeled(images))
    encoder = initial_encoder(recipe, 3, IMAGE).to(dtype)
    widened = encoder.backbone.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(dtype),))
    losses: list[float] = []
    with kept(folder / "scratch" / "key", Interval(epochs=10)) as keeper:  # to save takes longer than a step
        train_classifier(
            encoder,
            training,
            images,
            recipe,
            IMAGE,
            torch.device("cpu"),
            lambda epoch: losses.append(epoch.loss),
            keeper,
        )
    widened.remove()
    encoder.float()
    encoded = [encode_jpeg(image.numpy(), 95) for image in pixels]
    names = [f"image {number}" for number in range(len(encoded))]
    return losses, extract_features(encoder, encoded, names, torch.device("cpu"), flip=True, batch_size=4)


def train_in_single_precision(folder: Path) -> tuple[list[float], np.ndarray]:
    return train_and_extract(folder, torch.float32)


def train_modern(folder: Path) -> tuple[list[float], np.ndarray]:
    """The strong baseline's parts: batches of identities with generated images, triplet and center loss, a neck."""
    return train_and_extract(folder, modern=True)


@pytest.mark.parametrize(("train", "epochs"), [(train_and_extract, 20), (train_modern, 10)])
def test_loss_curve_and_features_are_those_of_one_process(tmp_path, train, epochs):
    torch.set_num_threads(1)
    expected_losses, expected_features = train(tmp_path / "alone")
    (first_losses, first_features), (_, second_features) = in_two_processes(tmp_path, train)
    assert len(expected_losses) == epochs
    assert np.std(expected_losses) > 0.005
    np.testing.assert_allclose(first_losses, expected_losses, atol=1e-6)
    np.testing.assert_array_equal(first_features, second_features)
    np.testing.assert_allclose(first_features, expected_features, rtol=1e-5, atol=1e-5)
    assert not (tmp_path / "scratch" / "key").exists()


@pytest.mark.slow
def test_in_single_precision_rounding_is_all_that_differs(tmp_path):
    """A step multiplies what rounding left by some factor, so that the curves part in the end; see docs/training.md."""
    torch.set_num_threads(1)
    expected, _ = train_in_single_precision(tmp_path / "alone")
    (found, _), _ = in_two_processes(tmp_path, train_in_single_precision)
    np.testing.assert_allclose(found[:10], expected[:10], atol=1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-2)


def normalize_share(folder: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A share through the global norm; the whole output, the input's gradient, and the running variance."""
    torch.manual_seed(0)
    whole = torch.randn(5, 3, 4, 2) * 3 + 1
    share = whole[share_of(5)].requires_grad_()
    norm = GlobalBatchNorm(nn.BatchNorm2d(3))
    output = gather_rows(norm(share), 5)
    (output * torch.arange(output.numel()).view_as(output)).sum().backward()
    return output.detach(), share.grad / 2, norm.running_var


class OwnNorm(nn.BatchNorm2d):
    pass


def test_norms_of_timm_keep_their_activation_and_unknown_ones_are_refused():
    given = BatchNormAct2d(4, act_layer=nn.ReLU6).eval()
    images = torch.randn(3, 4, 5, 2) * 5
    torch.testing.assert_close(GlobalBatchNorm(given).eval()(images), given(images))
    assert type(synchronized_norm(given, torch.device("cuda"))).__name__ == "SyncBatchNormAct"
    with pytest.raises(InputError, match="batch norms of the kind OwnNorm, which cannot be synchronized"):
        synchronized_norm(OwnNorm(4), torch.device("cpu"))


def test_global_batch_norm_is_batch_norm_over_everything(tmp_path):
    results = in_two_processes(tmp_path, normalize_share)
    torch.manual_seed(0)
    whole = (torch.randn(5, 3, 4, 2) * 3 + 1).requires_grad_()
    norm = nn.BatchNorm2d(3)
    output = norm(whole)
    (output * torch.arange(output.numel()).view_as(output)).sum().backward()
    for result in results:
        torch.testing.assert_close(result[0], output.detach(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(result[2], norm.running_var)
    gradient = torch.cat([results[0][1], results[1][1]])
    torch.testing.assert_close(gradient, whole.grad, atol=2e-3, rtol=1e-4)


def test_shares_cover_everything_once():
    assert share_of(7) == slice(0, 7)


@pytest.mark.parametrize(("text", "message"), [("two", "SLSR_PROCESSES: 'two'"), ("0", "at least 1")])
def test_a_wrong_number_of_processes_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        processes_wanted({"SLSR_PROCESSES": text})


def test_who_is_launched():
    assert processes_wanted({"SLSR_PROCESSES": "3"}) == 3 or torch.cuda.is_available()
    assert not launched({})
    assert not launched({"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"})
    assert not launched({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}), "a batch script of two tasks runs once"
    assert launched({"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"})
    assert launched({"RANK": "0"})


def test_a_precision_that_the_gpu_lacks_is_refused():
    for precision in ("bf16", "tf32"):
        with pytest.raises(
            InputError, match=rf"precision: {precision}: Tesla T4 does not support it; set precision: fp32"
        ):
            check_precision(precision, (7, 5), "Tesla T4")
        check_precision(precision, (8, 0), "A100")
    check_precision("fp32", (7, 5), "Tesla T4")


CRASH = """
import os, sys, time
import torch.distributed as dist
import slsr.stages.train_encoder as stage
import slsr.models.checks, slsr.params.file, slsr.cli.main
from slsr.errors import CheckFailed, InputError, Interrupted
def run(image):
    if dist.get_rank() == 1:
        raise InputError("the second process fails")
    time.sleep(300)
stage.run = run
slsr.params.file.load_params = lambda path: type("Params", (), {"image": None})
slsr.models.checks.check_networks = lambda params: None
slsr.cli.main.main()
"""


def test_a_crash_of_one_process_ends_the_others_with_its_error_and_status(tmp_path):
    """The launcher runs `python -m slsr`; here that is a package whose second process fails."""
    package = tmp_path / "slsr_crash.py"
    package.write_text(CRASH)
    program = (
        "import sys; from slsr.runtime import launch; "
        "real = launch.elastic_launch; "
        f"launch.elastic_launch = lambda config, entry: lambda *a: real(config, entry)({str(package)!r}, *a[2:]); "
        "sys.exit(launch.start_processes(2, ['train-encoder']))"
    )
    environment = os.environ | {"SLSR_PROCESSES": "2"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )  # the other process would sleep for 300 s; half a minute is for starting
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "slsr, process 1: the second process fails"


@pytest.mark.parametrize(("stopping", "error"), [(True, Interrupted), (False, CheckFailed)])
def test_who_waits_for_a_process_that_has_left_leaves_without_a_traceback(monkeypatch, stopping, error):
    def closed(*arguments, **more):
        raise RuntimeError("Connection closed by peer")

    channel = spread.Channel(lambda: stopping)
    monkeypatch.setattr(spread, "rank_and_size", lambda: (0, 2))
    monkeypatch.setattr(dist, "recv_object_list", closed)
    with pytest.raises(error, match="the same command goes on"):
        channel.to_first(None, owner=1)


def test_half_of_what_torchrun_sets_is_refused():
    with pytest.raises(InputError, match="RANK is set, but WORLD_SIZE and MASTER_ADDR not"):
        join_processes({"RANK": "0", "MASTER_PORT": "1"})
