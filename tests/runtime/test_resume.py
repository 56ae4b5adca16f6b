"""A run that is killed, however often, ends with the bytes of one that is not."""

import errno
import hashlib
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from tiny import STRONG, make_recipe, mixed

from slsr.errors import InputError, Interrupted
from slsr.images.loading import LabeledImages
from slsr.models.encoder import save_encoder
from slsr.models.weights import initial_encoder
from slsr.params.recipe import Image
from slsr.runtime import resume
from slsr.runtime.resume import STATE, Interval, Keeper, kept, save_interval
from slsr.runtime.seeds import derived_generator
from slsr.training.classifier import TrainingSet, train_classifier

IMAGE = Image(
    height=32,
    width=32,
    resize_height=34,
    resize_width=34,
    interpolation="bilinear",
    test="center-crop",
    normalization="symmetric",
)
COMMON = {"epochs": 4, "batch_size": 4, "random_crop": True, "horizontal_flip": True, "random_erasing": 0.5, "seed": 3}
RECIPE = make_recipe({"name": "adamw"}, {"name": "one-cycle"}, head="bottleneck", **COMMON)
MODERN = make_recipe({"name": "adam"}, {"name": "cosine", "warmup_epochs": 1}, **(COMMON | STRONG))


def train(folder: Path, scratch: Path | None, seconds: float = 0.0, modern: bool = False) -> None:
    """Train on 21 small images; write the weights and what was said of each epoch.

    `modern`: with the strong baseline's parts, six generated images, and averaged weights.
    """
    torch.set_num_threads(1)
    pixels = torch.randint(0, 256, (21, 34, 34, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    images = LabeledImages(pixels, torch.arange(21) % 3)
    recipe, training = (MODERN, mixed(21)) if modern else (RECIPE, TrainingSet.of_labeled(images))
    encoder = initial_encoder(recipe, 3, IMAGE)
    said: list[str] = []
    arguments = (encoder, training, images, recipe, IMAGE, torch.device("cpu"))
    if scratch is None:
        train_classifier(*arguments, lambda epoch: said.append(repr(epoch)))
    else:
        with kept(scratch, Interval(seconds)) as keeper:
            train_classifier(*arguments, lambda epoch: said.append(repr(epoch)), keeper)
    save_encoder(folder / "model.safetensors", encoder)
    (folder / "epochs.txt").write_text("\n".join(said))


def digest(folder: Path) -> str:
    return hashlib.md5(
        b"".join((folder / name).read_bytes() for name in ("model.safetensors", "epochs.txt"))
    ).hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("whole")
    train(folder, None)
    return digest(folder)


@pytest.mark.parametrize("wanted", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_change_nothing(tmp_path, uninterrupted, wanted):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    moments, kills = random.Random(7), 0
    while kills < wanted or not (tmp_path / "epochs.txt").exists():
        assert kills < 200, "the run makes no progress between kills"
        process = context.Process(target=train, args=(tmp_path, tmp_path / "scratch" / "key"))
        process.start()
        process.join(moments.uniform(0.05, 0.9) if kills < wanted else None)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
        elif kills < wanted:  # it ended before its kill: once more from the start
            (tmp_path / "epochs.txt").unlink(missing_ok=True)
    assert digest(tmp_path) == uninterrupted
    assert not (tmp_path / "scratch" / "key").exists(), "the state is removed when the run has ended"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, uninterrupted, number):
    scratch = tmp_path / "scratch" / "key"
    interrupt_after(tmp_path, scratch, steps=9, number=number)
    train(tmp_path, scratch)
    assert digest(tmp_path) == uninterrupted


def test_centers_and_averaged_weights_come_back_too(tmp_path):
    train(tmp_path, None, modern=True)
    expected, scratch = digest(tmp_path), tmp_path / "scratch" / "key"
    interrupt_after(tmp_path, scratch, steps=9, number=signal.SIGTERM, modern=True)
    train(tmp_path, scratch, modern=True)
    assert digest(tmp_path) == expected


def interrupt_after(folder: Path, scratch: Path, steps: int, number: int, modern: bool = False) -> None:
    """Train until a signal in a given step; the state of the middle of an epoch is left behind."""
    due, seen = Keeper.due, []

    def counted(self, ended):
        seen.append(1)
        if len(seen) == steps:
            os.kill(os.getpid(), number)
            time.sleep(0.01)
        return due(self, ended)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keeper, "due", counted)
        with pytest.raises(Interrupted, match="the same command goes on"):
            train(folder, scratch, seconds=1e9, modern=modern)
    assert (scratch / STATE).exists()


def test_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with kept(tmp_path / "key"):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_full_disk_keeps_the_state_before_and_the_run_going(tmp_path, monkeypatch, caplog):
    keeper = Keeper(tmp_path / "key", Interval(0))
    keeper.save({"step": 1, "weights": torch.ones(3)})

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    keeper.save({"step": 2})
    assert keeper.load()["step"] == 1
    assert "could not be saved" in caplog.text
    assert sorted(path.name for path in (tmp_path / "key").iterdir()) == [STATE]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_fills_up_while_torch_writes_keeps_the_state_before(tmp_path, caplog):
    keeper = Keeper(tmp_path, Interval(0))
    keeper.save({"step": 1, "weights": torch.ones(300_000)})
    (tmp_path / f".{STATE}.{os.getpid()}.partial").symlink_to("/dev/full")
    keeper.save({"step": 2, "weights": torch.zeros(300_000)})
    assert keeper.load()["step"] == 1
    assert "could not be saved" in caplog.text
    assert f"the last good state, after step 1 of all, is {tmp_path / STATE}" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == [STATE]
    keeper.save({"step": 3})
    assert keeper.load()["step"] == 3, "room again"


def test_leaving_with_nothing_saved_does_not_promise_to_go_on(tmp_path, monkeypatch):
    keeper = Keeper(tmp_path)
    with pytest.raises(Interrupted, match="nothing could be saved"):
        keeper.leave(7)
    keeper.save({"step": 7})
    with pytest.raises(Interrupted, match=f"the same command goes on from {tmp_path}$"):
        keeper.leave(7)
    keeper.save({"step": 9, "loss": float("nan")})
    with pytest.raises(Interrupted, match=r"after step 9; .*, step 7, because this step could not be saved"):
        keeper.leave(9)


def test_where_each_process_keeps_a_state_each_says_where(tmp_path, monkeypatch):
    """Of a generator that diverges on another process than the first, nobody else could."""
    monkeypatch.setattr(resume, "is_first", lambda: False)
    for each, words in ((False, "the first process says"), (True, "after step 3 of all, is")):
        keeper = Keeper(tmp_path, each_process=each)
        keeper.save({"step": 3})
        assert words in keeper.last_good_state()
        with pytest.raises(Interrupted, match=str(tmp_path) if each else "the first process says"):
            keeper.leave(3)


def test_a_state_that_cannot_be_saved_is_not_tried_again_at_once(tmp_path, monkeypatch):
    keeper, later = Keeper(tmp_path, Interval(30)), time.monotonic() + 60
    assert not keeper.due()
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert keeper.due()
    keeper.save({"step": 1, "loss": float("nan")})
    assert not keeper.due()


def test_saving_that_takes_longer_than_its_interval_leaves_time_for_steps(tmp_path, monkeypatch):
    keeper = Keeper(tmp_path, Interval(0.2))
    original = torch.save
    monkeypatch.setattr(torch, "save", lambda *arguments: (time.sleep(0.3), original(*arguments)))
    keeper.save({"step": 1})
    assert not keeper.due()


def test_what_killed_processes_left_while_saving_goes_and_that_of_living_ones_stays(tmp_path):
    old, young = tmp_path / f".{STATE}.1.partial", tmp_path / f".{STATE}.2.partial"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, time.time() - 3600))
    Keeper(tmp_path).load()
    assert [path.name for path in tmp_path.iterdir()] == [young.name]


@pytest.mark.parametrize("bad", [float("nan"), torch.tensor([1.0, float("inf")]), [1.0, float("nan")]])
def test_nan_and_infinity_are_not_saved(tmp_path, caplog, bad):
    keeper = Keeper(tmp_path, Interval(0))
    keeper.save({"step": 1, "weights": {"a": torch.ones(2), "counts": [torch.tensor(3)]}})
    keeper.save({"step": 2, "weights": {"a": bad}})
    assert keeper.load()["step"] == 1
    assert "the state after step 2 contains NaN or infinity; not saved" in caplog.text


@pytest.mark.parametrize(
    ("text", "seconds", "epochs"),
    [("", 60, 0), ("10 minutes", 600, 0), ("1 minute", 60, 0), ("0.5minutes", 30, 0), ("2 epochs", 60, 2)],
)
def test_how_often_to_save(text, seconds, epochs):
    assert save_interval({"SLSR_SAVE_EVERY": text}) == Interval(seconds, epochs)
    assert save_interval({}) == Interval()


@pytest.mark.parametrize("text", ["often", "5", "0 epochs", "1.5 epochs", "-1 minutes", "10 seconds"])
def test_an_interval_that_is_none_is_refused(text):
    with pytest.raises(InputError, match=f"SLSR_SAVE_EVERY: '{text}'; give for example `10 minutes`"):
        save_interval({"SLSR_SAVE_EVERY": text})


def test_saving_by_epochs_and_by_time(tmp_path):
    by_epochs = Keeper(tmp_path, Interval(0, 2))
    assert [by_epochs.due(ended) for ended in (0, 1, 0, 2, 3, 4)] == [False, False, False, True, False, True]
    assert Keeper(tmp_path, Interval(0)).due()
    assert not Keeper(tmp_path, Interval(1e9)).due(2)


def test_a_state_that_does_not_read_is_put_aside(tmp_path, caplog):
    keeper = Keeper(tmp_path)
    (tmp_path / STATE).write_bytes(b"half a sta")
    assert keeper.load() is None
    assert "starts from the beginning" in caplog.text


def test_a_state_is_never_unpickled_into_code(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "made"),))

    torch.save({"step": Harmful()}, tmp_path / STATE)
    assert Keeper(tmp_path).load() is None
    assert not (tmp_path / "made").exists()


def test_old_states_of_others_are_removed_and_young_ones_kept(tmp_path):
    for name, days in (("old", 30), ("young", 1)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / STATE).write_bytes(b"x")
        then = time.time() - days * 86400
        for path in (folder / STATE, folder):
            os.utime(path, (then, then))
    with kept(tmp_path / "own"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["young"]


def test_derived_generators_differ_from_step_to_step():
    draws = {float(torch.rand(1, generator=derived_generator(1, step, kind))) for step in range(50) for kind in (0, 1)}
    assert len(draws) == 100
    assert torch.equal(
        torch.rand(5, generator=derived_generator(1, 2, 3)), torch.rand(5, generator=derived_generator(1, 2, 3))
    )
