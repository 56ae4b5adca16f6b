"""Training a classifier of identities, on real and generated images alike."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from slsr.errors import InputError
from slsr.images.augmentation import augment, draw_augmentation, to_input
from slsr.images.loading import LabeledImages
from slsr.labels.loss import soft_cross_entropy
from slsr.labels.supervision import FIXED_LABELS, Supervision
from slsr.labels.targets import Targets, real_targets
from slsr.models.encoder import Encoder
from slsr.params.base import Precision
from slsr.params.recipe import Image, Optimizer, Recipe
from slsr.runtime.clock import Clock, Step
from slsr.runtime.devices import autocast, to_device
from slsr.runtime.processes import gather_rows, is_first, share_network, share_of, synchronize_batch_norm
from slsr.runtime.resume import NOT_KEPT, Keeper
from slsr.runtime.seeds import derived_generator, derived_seed
from slsr.training.compiling import Function, compiled, compiling_pays
from slsr.training.metric_losses import CenterLoss, batch_hard_triplet
from slsr.training.sampling import generated_batches, identity_batches
from slsr.training.schedule import images_of_pass, learning_rate_factors, steps_of_pass
from slsr.training.validation import HeldOutPeople, Validation, evaluate_people

log = logging.getLogger(__name__)

# The first epoch is judged if it has at least STEPS_TO_JUDGE steps: it learned nothing if the loss of its last quarter
# is not lower than that of its first quarter by this share.
STEPS_TO_JUDGE = 8
LEAST_PROGRESS = 1e-3
VALIDATION_BATCH = 256

# The streams of random numbers of a step, each with its own seed.
ORDER, AUGMENTATION, DROPOUT, CENTERS = range(4)


@dataclass(frozen=True)
class TrainingSet:
    """Images in the memory of the host or of the device, with their targets: first the real ones, then generated ones.

    Attributes
    ----------
    pixels : uint8 [N, H, W, 3], resized, not cropped
    targets : one distribution per image
    weights : float32 [N], factor on the loss of each image
    labels : int64 [R], the identities of the real images
    """

    pixels: Tensor
    targets: Targets
    weights: Tensor
    labels: Tensor

    @classmethod
    def of_labeled(cls, images: LabeledImages, smoothing: float = 0.0) -> TrainingSet:
        """Make a set of labeled images; `smoothing` is the weight that is spread over all labels."""
        targets = real_targets(images.labels, smoothing)
        return cls(images.pixels, targets, torch.ones(len(images.labels)), images.labels)

    @property
    def generated(self) -> int:
        """The number of generated images."""
        return len(self.pixels) - len(self.labels)

    def to(self, device: torch.device) -> TrainingSet:
        """Return the same set on a device."""
        return TrainingSet(
            self.pixels.to(device), self.targets.to(device), self.weights.to(device), self.labels.to(device)
        )


@dataclass(frozen=True)
class Epoch:
    """The results of an epoch, a pass over the images; the validation results are None where they were not measured.

    Attributes
    ----------
    steps, rate_sum : since the start: the steps, and the sum of the backbone's learning rate over them
    validation_loss, validation_accuracy : of one held-out image per identity
    validation_rank1, validation_map : of held-out people, query against gallery; mAP is the trapezoid one
    best : the number of the epoch with the highest mAP so far, if the recipe keeps that one
    """

    number: int
    steps: int
    rate_sum: float
    loss: float
    learning_rate: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    validation_rank1: float | None = None
    validation_map: float | None = None
    best: int | None = None


def train_classifier(
    encoder: Encoder,
    training: TrainingSet,
    validation: Validation | None,
    recipe: Recipe,
    image: Image,
    device: torch.device,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    keeper: Keeper = NOT_KEPT,
    supervision: Supervision = FIXED_LABELS,
) -> int | None:
    """Train an encoder from its weights, in place; return the number of the best epoch if `recipe.keep` says so.

    The weights are then those of that epoch, else those of the last one; with `recipe.ema`, averaged ones. Errors are
    those of `Clock`, and InputError if the best epoch is asked for and no people are held out, or if a batch needs more
    identities than there are.

    An epoch sees each image once, in batches of one shuffled union of all images, or it is as many batches of
    `images_per_identity` images of some identities as it takes to see as many real images, with generated ones beside
    them. With `recipe.steps` the last epoch may be a part of one. Order, augmentation and dropout of a step follow from
    the recipe's seed and the number of the step alone.

    Parameters
    ----------
    on_epoch : called after each epoch, and first for each epoch that an interrupted run had finished
    keeper : keeps the state of the training, and gives the state of an interrupted one
    supervision : labels of generated images that follow the network, and the noise layer, which is trained in place
    """
    learner = _Learner(encoder, training, validation, recipe, image, device, supervision)
    total, state = len(learner.factors), keeper.load()
    epochs = math.ceil(total / learner.steps)
    clock = Clock(learner, learner.steps, epochs, len(training.pixels), device, keeper, state, total=total)
    for epoch in learner.epochs:
        on_epoch(epoch)
    for step in clock:
        images = learner.batch(step)
        loss = learner.loss(images, step)
        learner.update(loss, step)
        clock.record(loss.detach(), len(images))
        if step.ends_epoch:
            on_epoch(learner.finish_epoch(clock, step))
    return learner.take_weights()


@dataclass
class _Learner:
    """An encoder in training, and everything that its loss is computed from; no step waits for the device."""

    encoder: Encoder
    training: TrainingSet
    validation: Validation | None
    recipe: Recipe
    image: Image
    device: torch.device
    supervision: Supervision

    title = "train"

    def __post_init__(self) -> None:
        if self.recipe.keep == "best" and not isinstance(self.validation, HeldOutPeople):
            raise InputError(
                "keep: best needs people who are held out whole, and validation.parquet has none; run `dvc repro` with "
                "dataset.validation: identities, or set train.keep (encoder.keep) to last"
            )
        self.encoder.to(self.device).to(memory_format=torch.channels_last)
        self.supervision.to(self.device)
        self.training = self.training.to(self.device)
        self.validation = self.validation.to(self.device) if self.validation is not None else None
        synchronize_batch_norm(self.encoder.backbone, self.device)
        self.optimizer = build_optimizer(self.encoder, self.recipe.optimizer)
        self.epochs: list[Epoch] = []
        self._best: dict[str, Tensor] = {}
        self._identities = self.training.labels.cpu()
        self._centers = self._build_centers()
        self._average = self._build_average()
        self.count = images_of_pass(self.recipe, len(self._identities), self.training.generated)
        self.steps = steps_of_pass(self.count, self.recipe.batch_size)
        self.factors = learning_rate_factors(self.recipe, self.count)
        self._factor_sums = list(accumulate(self.factors))
        self._batches: list[Tensor] = []
        self._network = share_network(GlobalBatch(self.encoder, self._features()), self.device)

    def _features(self) -> Function:
        """Return the encoder's `pooled` as training computes it: compiled for whole batches where that pays."""
        if not compiling_pays(self.recipe.compile, self.device):
            return self.encoder.pooled
        self.encoder.train()
        size = (len(self._batches_of(0)[0]), 3, self.image.height, self.image.width)
        example = torch.zeros(size, device=self.device).to(memory_format=torch.channels_last)
        with autocast(self.device, self.recipe.precision):
            return compiled(self.encoder.pooled, self.encoder, example)

    def batch(self, step: Step) -> Tensor:
        """Return the numbers of a step's images, int64 [B], on the device."""
        if step.position == 0 or not self._batches:
            self._batches = self._batches_of(step.epoch)
            self.encoder.train()
        return self._batches[step.position]

    def _batches_of(self, epoch: int) -> list[Tensor]:
        """Return the numbers of the images of every batch of an epoch (0-based), on the device."""
        recipe, real = self.recipe, len(self._identities)
        if recipe.sampler == "shuffle":
            return batches(to_device(epoch_order(self.count, recipe.seed, epoch), self.device), recipe.batch_size)
        generator = derived_generator(recipe.seed, epoch, ORDER)
        people = identity_batches(
            self._identities, recipe.batch_size, recipe.images_per_identity, self.steps, generator
        )
        beside = generated_batches(self.training.generated, real, recipe.batch_size, self.steps, generator)
        return list(to_device(torch.cat([people, real + beside], dim=1), self.device))

    def loss(self, images: Tensor, step: Step) -> Tensor:
        """Return the loss of a batch, a scalar on the device."""
        inputs = self._augmented(images, step)
        torch.manual_seed(derived_seed(self.recipe.seed, step.number, DROPOUT))
        with autocast(self.device, self.recipe.precision):
            logits, pooled = self._network(inputs, len(images))
        targets, weights = self.training.targets.batch(images), self.training.weights[images]
        supervised = self.supervision.supervise(logits, targets, weights, images, self._spent(step))
        return soft_cross_entropy(*supervised) + self._metric_loss(pooled, images)

    def _metric_loss(self, pooled: Tensor, images: Tensor) -> Tensor:
        """Return the weighted triplet and center losses of the real images of a batch; 0 if the recipe has none."""
        triplet, center, labels = self.recipe.triplet, self.recipe.center, self.training.labels
        loss = pooled.new_zeros((), dtype=torch.float32)
        if triplet.weight > 0:  # the sampler puts the real images first
            real = slice(0, self.recipe.batch_size)
            loss = loss + triplet.weight * batch_hard_triplet(pooled[real], labels[images[real]], triplet.margin)
        if self._centers is not None:
            own = labels[images.clamp_max(len(labels) - 1)]
            loss = loss + center.weight * self._centers(pooled, own, images < len(labels))
        return loss

    def update(self, loss: Tensor, step: Step) -> None:
        """Step down the gradient of a loss: the encoder, the noise layer and the centers; then the averaged weights."""
        factor = self.factors[step.number]
        set_learning_rate(self.optimizer, factor)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.supervision.update_noise(factor)
        if self._centers is not None:
            self._centers.descend(self.recipe.center.learning_rate, self.recipe.center.weight)
        if self._average is not None:
            self._average.update_parameters(self.encoder)

    def _build_centers(self) -> CenterLoss | None:
        if self.recipe.center.weight == 0:
            return None
        torch.manual_seed(derived_seed(self.recipe.seed, 0, CENTERS))
        return CenterLoss(self.training.targets.table.shape[1], self.encoder.dimension).to(self.device)

    def _build_average(self) -> AveragedModel | None:
        if self.recipe.ema == 0:
            return None
        decay = get_ema_multi_avg_fn(self.recipe.ema)
        return AveragedModel(self.encoder, multi_avg_fn=decay, use_buffers=True)

    def _tested(self) -> Encoder:
        """Return the network that is validated and saved."""
        if self._average is None:
            return self.encoder
        averaged = self._average.module
        assert isinstance(averaged, Encoder)
        return averaged

    def _spent(self, step: Step) -> float:
        """Return the share of the run's summed learning rate that is spent after a step."""
        return self._factor_sums[step.number] / self._factor_sums[-1]

    def _augmented(self, images: Tensor, step: Step) -> Tensor:
        """Return this process's share of a batch, float32 [b, 3, height, width]."""
        pixels, recipe, crop = self.training.pixels, self.recipe, (self.image.height, self.image.width)
        draw = draw_augmentation(
            len(images),
            (pixels.shape[1], pixels.shape[2]),
            crop,
            derived_generator(recipe.seed, step.number, AUGMENTATION),
            random_crop=recipe.random_crop,
            padding=recipe.padding,
            horizontal_flip=recipe.horizontal_flip,
            color_jitter=recipe.color_jitter,
            random_erasing=recipe.random_erasing,
        )
        share = share_of(len(images))
        return augment(pixels, images[share], draw.rows(share).to(self.device), crop, self.image.normalization)

    def finish_epoch(self, clock: Clock, step: Step) -> Epoch:
        """Validate, and return the results of the epoch that has just ended.

        Raises
        ------
        CheckFailed
            The loss of the held-out images is infinite or NaN, or the features of held-out people cannot be ranked.
        """
        if step.epoch == 0 and is_first():
            _warn_without_progress(clock.losses(), self.recipe)
        rate_sum = self.recipe.optimizer.learning_rate * self._factor_sums[step.number]
        rate = self.optimizer.param_groups[0]["lr"]
        epoch = Epoch(step.epoch + 1, step.number + 1, rate_sum, float(clock.mean()), rate)
        if epoch.number % self.recipe.validate_every == 0 or epoch.number == clock.epochs:
            epoch = self._validated(epoch, clock)
        self.epochs.append(epoch)
        if self.recipe.keep == "best":
            self.epochs[-1] = epoch = replace(epoch, best=best_epoch(self.epochs))
            if epoch.best == epoch.number:
                self._best = {name: value.detach().clone() for name, value in self._tested().state_dict().items()}
        log.info("%s", describe(epoch, clock.epochs))
        return epoch

    def _validated(self, epoch: Epoch, clock: Clock) -> Epoch:
        """Return the epoch with what validation measures of the encoder; errors as `finish_epoch`."""
        if self.validation is None:
            return epoch
        remedy = "training diverged; lower optimizer.learning_rate, or use precision: fp32"
        if isinstance(self.validation, HeldOutPeople):
            try:
                found = evaluate_people(self._tested(), self.validation, self.image, self.recipe.precision).means()
            except InputError as error:
                raise clock.failure(f"held-out people after epoch {epoch.number}: {error}: {remedy}") from error
            return replace(epoch, validation_rank1=found["rank1"], validation_map=found["map_trapezoid"])
        loss, accuracy = validate(self._tested(), self.validation, self.image, self.recipe.precision)
        if not math.isfinite(loss):
            raise clock.failure(f"the loss of the held-out images is {loss} after epoch {epoch.number}: {remedy}")
        return replace(epoch, validation_loss=loss, validation_accuracy=accuracy)

    def take_weights(self) -> int | None:
        """Give the encoder the averaged weights, or those of the best epoch, if the recipe asks; return that epoch."""
        number = self.epochs[-1].best
        if number is None and self._average is not None:
            self.encoder.load_state_dict(self._tested().state_dict())
        elif number is not None:
            self.encoder.load_state_dict(self._best)
            mean = self.epochs[number - 1].validation_map
            log.info("kept epoch %d of %d: validation mAP %.3f", number, len(self.epochs), mean)
        return number

    def state_dict(self) -> dict[str, Any]:
        return {
            "encoder": self.encoder.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "supervision": self.supervision.state_dict(),
            "centers": self._centers.state_dict() if self._centers is not None else None,
            "average": self._average.state_dict() if self._average is not None else None,
            "best": self._best,
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for part in ("encoder", "optimizer", "supervision"):
            getattr(self, part).load_state_dict(state[part])
        for module, kept in ((self._centers, state["centers"]), (self._average, state["average"])):
            if module is not None:
                module.load_state_dict(kept)
        self._best = state["best"]
        self.epochs = [Epoch(**epoch) for epoch in state["epochs"]]

    def describe_divergence(self, losses: Tensor, epoch: int, step: int) -> str:
        return (
            f"the loss is {float(losses)} in epoch {epoch}, step {step}: training diverged; lower "
            "optimizer.learning_rate, or use precision: fp32"
        )


class GlobalBatch(nn.Module):
    """An encoder whose head sees the features of the whole batch, while its backbone sees this process's share.

    So dropout, the head's batch norm and the loss are the same as in one process.
    """

    def __init__(self, encoder: Encoder, features: Function) -> None:
        super().__init__()
        self.encoder = encoder
        self.features = features

    def forward(self, images: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return logits and pooled features of all `count` images of a batch, from this process's share of them."""
        pooled = gather_rows(self.features(images), count)
        return self.encoder.head(self.encoder.neck(pooled)), pooled


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Return the order in which an epoch (0-based) sees the images."""
    return torch.randperm(count, generator=derived_generator(seed, epoch, ORDER))


def batches(order: Tensor, size: int) -> list[Tensor]:
    """Split indices into batches; a last batch of one image joins the batch before it, since batch norm needs two."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def build_optimizer(encoder: Encoder, choice: Optimizer) -> torch.optim.Optimizer:
    """Return an optimizer with groups for backbone and head (with neck), each with its base learning rate.

    Without `decay_norms_and_biases`, each has a second group without weight decay: the parameters with one dimension.
    """
    groups = []
    for parts, rate in (
        ((encoder.backbone, encoder.pool), choice.learning_rate),
        ((encoder.neck, encoder.head), choice.head_learning_rate),
    ):
        trained = [one for part in parts for one in part.parameters() if one.requires_grad]
        for decays in (True, False):
            of_group = [one for one in trained if decays == (choice.decay_norms_and_biases or one.ndim > 1)]
            decay = choice.weight_decay if decays else 0.0
            groups.append({"params": of_group, "lr": rate, "base_learning_rate": rate, "weight_decay": decay})
    groups = [group for group in groups if group["params"]]
    if choice.name in ("adam", "adamw"):
        kind = torch.optim.Adam if choice.name == "adam" else torch.optim.AdamW
        return kind(groups, betas=(choice.momentum, 0.999), fused=True)
    return torch.optim.SGD(groups, momentum=choice.momentum, nesterov=choice.name == "sgd-nesterov", fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to `factor` times its base learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_learning_rate"] * factor


def _warn_without_progress(losses: Tensor, recipe: Recipe) -> None:
    quarter = len(losses) // 4
    if len(losses) < STEPS_TO_JUDGE:
        return
    start, end = float(losses[:quarter].mean()), float(losses[-quarter:].mean())
    if end > (1 - LEAST_PROGRESS) * start:
        log.warning(
            "the loss has not fallen in the first epoch: %.4f in its first quarter, %.4f in its last; is "
            "optimizer.learning_rate (%g) too low or too high, or do the labels not fit the images?",
            *(start, end, recipe.optimizer.learning_rate),
        )


@torch.inference_mode()
def validate(
    encoder: Encoder,
    validation: LabeledImages,
    image: Image,
    precision: Precision = "fp32",
    batch_size: int = VALIDATION_BATCH,
) -> tuple[float, float]:
    """Return cross-entropy and accuracy on held-out images on the encoder's device, without augmentation."""
    encoder.eval()
    device = validation.pixels.device
    loss, right = torch.zeros((), device=device), torch.zeros((), device=device)
    for start in range(0, len(validation.labels), batch_size):
        rows = slice(start, start + batch_size)
        labels = validation.labels[rows]
        with autocast(device, precision):
            logits = encoder(to_input(validation.pixels[rows], image)).float()
        loss += nn.functional.cross_entropy(logits, labels, reduction="sum")
        right += (logits.argmax(dim=1) == labels).sum()
    return float(loss) / len(validation.labels), float(right) / len(validation.labels)


def describe(epoch: Epoch, epochs: int) -> str:
    """Describe an epoch in one line of the log."""
    line = f"epoch {epoch.number}/{epochs}: loss {epoch.loss:.4f}"
    if epoch.validation_accuracy is not None:
        line += f", validation accuracy {epoch.validation_accuracy:.3f}, loss {epoch.validation_loss:.4f}"
    if epoch.validation_map is not None:
        line += f", validation rank-1 {epoch.validation_rank1:.3f}, mAP {epoch.validation_map:.3f}"
    return line


def best_epoch(epochs: Sequence[Epoch]) -> int | None:
    """Return the number of the epoch with the highest validation mAP, the first of several; None if none has one."""
    measured = [epoch for epoch in epochs if epoch.validation_map is not None]
    return max(measured, key=lambda epoch: epoch.validation_map or 0.0).number if measured else None
