"""Validation by retrieval: a loop finds the same measures, and the best epoch is kept, also after interruptions."""

import numpy as np
import pytest
import torch
from naive import naive_measures, naive_ranks, squared_distances
from test_classifier import CLASSES, CPU, equal, labels, real_set, trained
from tiny import colored, encode, make_image, make_recipe, noise

from slsr.errors import CheckFailed, InputError, Interrupted
from slsr.images.augmentation import to_input
from slsr.images.tables import RANKED, TRAINING, table_writer
from slsr.models.weights import initial_encoder
from slsr.retrieval import Labels
from slsr.runtime.resume import Interval, Keeper
from slsr.training import classifier
from slsr.training.classifier import Epoch, best_epoch, describe, train_classifier
from slsr.training.validation import HeldOutPeople, evaluate_people, read_validation

pytestmark = pytest.mark.usefixtures("tiny_backbone")

# identity, camera and role; person 9 has one camera
ROWS = [
    *((5, 1, "gallery"), (5, 1, "query"), (5, 2, "gallery"), (5, 2, "query"), (7, 3, "gallery"), (7, 1, "query")),
    *((7, 3, "query"), (8, 2, "gallery"), (8, 3, "query"), (9, 1, "gallery"), (9, 1, "gallery"), (7, 1, "gallery")),
]
PIXELS = noise(len(ROWS), seed=3)


def write_people(path):
    with table_writer(path, RANKED) as table:
        for number, (pixels, (identity, camera, role)) in enumerate(zip(PIXELS, ROWS, strict=True)):
            row = {"image": encode(pixels), "name": f"{number}.png", "identity": identity, "camera": camera}
            table.append(row | {"role": role})


@pytest.fixture
def people(tmp_path) -> HeldOutPeople:
    write_people(tmp_path / "validation.parquet")
    return read_validation(tmp_path / "validation.parquet", make_image())


def test_the_measures_are_those_of_a_loop(people):
    encoder, epochs = trained(real_set(), people, epochs=1)
    features = []
    with torch.no_grad():
        for pixels in PIXELS:
            inputs = to_input(torch.from_numpy(pixels[None].copy()), make_image())
            features.append((encoder.eval().features(inputs) + encoder.features(inputs.flip(3)))[0].numpy())
    query, gallery = ([n for n, row in enumerate(ROWS) if row[2] == role] for role in ("query", "gallery"))
    distances = squared_distances(np.array(features))[np.ix_(query, gallery)]
    columns = [[ROWS[n][column] for n in side] for column in (0, 1) for side in (query, gallery)]
    ranks = naive_ranks(distances, Labels(*(np.array(column) for column in columns)))
    expected = np.mean([naive_measures(one) for one in ranks], axis=0)
    assert (epochs[0].validation_rank1, epochs[0].validation_map) == pytest.approx(tuple(expected[:2]), abs=1e-6)
    assert epochs[0].validation_accuracy is None
    assert epochs[0].validation_loss is None
    assert 0 < epochs[0].validation_map < 1
    line = f"rank-1 {epochs[0].validation_rank1:.3f}, mAP {epochs[0].validation_map:.3f}"
    assert describe(epochs[0], 4).endswith(f", validation {line}")


def test_more_images_than_a_batch_have_the_same_measures(people, monkeypatch):
    from slsr.training import validation

    encoder = trained(real_set(), None, epochs=1)[0]
    whole = evaluate_people(encoder, people, make_image(), "fp32").means()
    monkeypatch.setattr(validation, "BATCH", 5)
    assert evaluate_people(encoder, people, make_image(), "fp32").means() == pytest.approx(whole)


def test_it_does_not_change_the_training(people):
    one, two = (trained(real_set(), held_out, head="bottleneck")[0] for held_out in (None, people))
    assert equal(one, two)


def test_other_tables_are_labeled_images_or_nothing(tmp_path):
    path, images = tmp_path / "validation.parquet", colored([2, 0])
    for count in (2, 0):
        with table_writer(path, TRAINING) as table:
            for pixels, label in list(zip(images.pixels.numpy(), [2, 0], strict=True))[:count]:
                row = {"image": encode(pixels), "name": "a", "identity": 1, "camera": 1, "label": label}
                table.append(row)
        found = read_validation(path, make_image())
        assert found is None if count == 0 else found.labels.tolist() == [2, 0]


@pytest.mark.parametrize(("every", "measured"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (5, [5]), (9, [5])])
def test_it_is_measured_every_n_epochs_and_at_the_end(people, every, measured):
    for held_out, name in ((people, "validation_map"), (colored(labels(4)), "validation_accuracy")):
        _, epochs = trained(real_set(), held_out, epochs=5, validate_every=every)
        assert [epoch.number for epoch in epochs if getattr(epoch, name) is not None] == measured


def test_the_best_epoch_is_the_first_of_the_highest_map():
    epochs = [
        Epoch(number, number, 0.0, 0.0, 0.0, validation_map=value)
        for number, value in enumerate([None, 0.2, 0.5, 0.5], 1)
    ]
    assert best_epoch(epochs) == 3
    assert best_epoch(epochs[:1]) is None
    assert best_epoch([Epoch(1, 1, 0.0, 0.0, 0.0, validation_map=0.0)]) == 1


class Measured:
    """Stands in for the measuring: the n-th epoch that is measured has the n-th mAP."""

    def __init__(self, values):
        self.values = iter(values)

    def __call__(self, *arguments):
        self.value = next(self.values)
        return self

    def means(self):
        return {"rank1": 1.0, "map_trapezoid": self.value}


RANDOM = {"random_crop": True, "horizontal_flip": True, "random_erasing": 0.5, "head": "bottleneck"}
MAPS = [0.1, 0.4, 0.4, 0.2, 0.3]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_the_weights_are_those_of_the_best_epoch(people, monkeypatch, caplog, ema):
    """At a constant rate the weights after epoch 2 of 5 are those of a training of 2 epochs; averaged ones too."""
    monkeypatch.setattr(classifier, "evaluate_people", Measured(MAPS))
    with caplog.at_level("INFO", logger="slsr"):
        kept, epochs = trained(real_set(), people, epochs=5, keep="best", ema=ema, **RANDOM)
    assert [epoch.best for epoch in epochs] == [1, 2, 2, 2, 2]
    assert "kept epoch 2 of 5: validation mAP 0.400" in caplog.text
    assert equal(kept, trained(real_set(), None, epochs=2, ema=ema, **RANDOM)[0])
    assert equal(kept, trained(real_set(), None, epochs=2, **RANDOM)[0]) == (ema == 0)
    monkeypatch.setattr(classifier, "evaluate_people", Measured(MAPS))
    last, epochs = trained(real_set(), people, epochs=5, ema=ema, **RANDOM)
    assert {epoch.best for epoch in epochs} == {None}
    assert equal(last, trained(real_set(), None, epochs=5, ema=ema, **RANDOM)[0])


@pytest.mark.parametrize(("step", "ema"), [*((step, 0.0) for step in (1, 3, 4, 5, 7, 9, 10)), (3, 0.9), (7, 0.9)])
def test_the_best_weights_survive_an_interruption(people, monkeypatch, tmp_path, step, ema):
    """Two steps an epoch: before, at, within and after the best epoch, and at the very end."""
    recipe, image = make_recipe(epochs=5, keep="best", ema=ema, **RANDOM), make_image()
    monkeypatch.setattr(classifier, "evaluate_people", Measured(MAPS))
    whole = trained(real_set(), people, epochs=5, keep="best", ema=ema, **RANDOM)[0]
    monkeypatch.setattr(classifier, "evaluate_people", Measured(MAPS))
    keeper = Keeper(tmp_path / "state", Interval(1e9))
    original, calls = classifier.soft_cross_entropy, []

    def counted(*arguments):
        calls.append(1)
        if len(calls) == step:
            keeper.request_stop()
        return original(*arguments)

    monkeypatch.setattr(classifier, "soft_cross_entropy", counted)
    with pytest.raises(Interrupted):
        train_classifier(initial_encoder(recipe, CLASSES, image), real_set(), people, recipe, image, CPU, keeper=keeper)
    encoder, again = initial_encoder(recipe, CLASSES, image), Keeper(tmp_path / "state", Interval(1e9))
    assert train_classifier(encoder, real_set(), people, recipe, image, CPU, keeper=again) == 2
    assert len(calls) == 10, "no step is done twice"
    assert equal(encoder, whole)


def test_the_best_of_no_held_out_people_is_refused():
    for held_out in (None, colored(labels(4))):
        with pytest.raises(InputError, match=r"keep: best needs people .*dataset\.validation: identities.*train\.keep"):
            trained(real_set(), held_out, keep="best")


def test_features_that_are_nan_stop_with_epoch_and_remedy(people, monkeypatch):
    def diverged(encoder, *arguments):
        with torch.no_grad():
            encoder.backbone[-2].weight.fill_(float("nan"))
        return evaluate_people(encoder, *arguments)

    monkeypatch.setattr(classifier, "evaluate_people", diverged)
    with pytest.raises(CheckFailed, match=r"held-out people after epoch 1: .*finite.*lower optimizer\.learning_rate"):
        trained(real_set(), people, epochs=2)
