"""Training a classifier of identities on real and generated images alike."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from slsr.errors import CheckFailed
from slsr.images.augmentation import augment, draw_augmentation, to_input
from slsr.images.loading import LabeledImages
from slsr.labels.generated import AS_LABELED, GeneratedImages
from slsr.labels.loss import soft_cross_entropy
from slsr.labels.targets import Targets, real_targets
from slsr.models.encoder import Encoder
from slsr.params.base import Precision
from slsr.params.recipe import Image, Optimizer, Recipe
from slsr.runtime.devices import autocast, to_device
from slsr.runtime.processes import (
    agreed,
    any_process,
    gather_rows,
    is_first,
    rank_and_size,
    share_network,
    share_of,
    synchronize_batch_norm,
    wait_for_all,
)
from slsr.runtime.resume import Keeper
from slsr.runtime.seeds import derived_generator, derived_seed
from slsr.training.compiling import Function, compiled, compiling_pays
from slsr.training.schedule import learning_rate_factor

log = logging.getLogger(__name__)

# Looking at a loss waits for the GPU; a CPU has computed it already.
STEPS_BETWEEN_CHECKS = {"cpu": 1, "cuda": 25}
# A first epoch of at least so many steps whose last quarter lost less than this share of its first quarter's loss has
# not learned.
STEPS_TO_JUDGE = 8
LEAST_PROGRESS = 1e-3
VALIDATION_BATCH = 256


@dataclass(frozen=True)
class TrainingSet:
    """Images resident on the host or the device, with their targets.

    Attributes
    ----------
    pixels : uint8 [N, H, W, 3], resized, not cropped
    targets : one distribution an image
    weights : float32 [N], factor on the loss of each image
    """

    pixels: Tensor
    targets: Targets
    weights: Tensor

    @classmethod
    def of_labeled(cls, images: LabeledImages) -> TrainingSet:
        """Labeled images, each with all weight on its label."""
        return cls(images.pixels, real_targets(images.labels), torch.ones(len(images.labels)))

    def to(self, device: torch.device) -> TrainingSet:
        """The same set on a device."""
        return TrainingSet(self.pixels.to(device), self.targets.to(device), self.weights.to(device))


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to; validation figures are None where nothing is held out."""

    number: int
    loss: float
    learning_rate: float
    validation_loss: float | None
    validation_accuracy: float | None


def train_classifier(
    encoder: Encoder,
    training: TrainingSet,
    validation: LabeledImages | None,
    recipe: Recipe,
    image: Image,
    device: torch.device,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    keeper: Keeper | None = None,
    generated: GeneratedImages = AS_LABELED,
) -> None:
    """Train an encoder in place; its state after the last epoch is the result.

    A batch is drawn from one shuffled union of all images. An epoch sees each image once. Order, augmentation and
    dropout of a step follow from the recipe's seed and the number of the step alone.

    Parameters
    ----------
    encoder : with its initial weights
    recipe : epochs, batch size, augmentation, optimizer, schedule, seed
    on_epoch : called after each epoch, and again for those that a resumed run had behind it
    keeper : keeps the state of the run, and gives that of an interrupted one
    generated : labels and noise layer of generated images that move as training goes; the noise layer in place

    Raises
    ------
    CheckFailed
        The loss became infinite or not a number; the message names epoch, step and the last good state.
    Interrupted
        A signal asked for the end; the state is saved.
    """
    encoder.to(device).to(memory_format=torch.channels_last)
    training = training.to(device)
    generated.to(device)
    held_out = validation.to(device) if validation is not None else None
    synchronize_batch_norm(encoder.backbone, device)
    optimizer = build_optimizer(encoder, recipe.optimizer)
    count = len(training.pixels)
    steps = len(batches(torch.arange(count), recipe.batch_size))
    first, losses, epochs = _restore(keeper, encoder, optimizer, generated, device)
    for epoch in epochs:
        on_epoch(epoch)
    features = _training_features(encoder, recipe, image, device, min(count, recipe.batch_size))
    network = share_network(GlobalBatch(encoder, features), device)
    unseen = STEPS_BETWEEN_CHECKS.get(device.type, 1)
    with _progress_bar(count, recipe, first // steps) as bar:
        for step in range(first, steps * recipe.epochs):
            number, position = divmod(step, steps)
            if position == 0 or step == first:
                order = batches(to_device(epoch_order(count, recipe.seed, number), device), recipe.batch_size)
                encoder.train()
            factor = learning_rate_factor(recipe.schedule, step, steps, recipe.epochs)
            set_learning_rate(optimizer, factor)
            losses.append(_step(network, optimizer, training, generated, order[position], recipe, image, step, number))
            generated.learn(factor)
            bar.update(len(order[position]))
            if position + 1 == steps:
                _stop_unless_finite(losses, 0, number + 1, keeper)
                if number == 0 and is_first():
                    _warn_without_progress(losses, recipe)
                epochs.append(_finish(encoder, losses, optimizer, held_out, number + 1, image, recipe.precision))
                _stop_unless_valid(epochs[-1], keeper)
                log.info("%s", describe(epochs[-1], recipe.epochs))
                on_epoch(epochs[-1])
                losses = []
            elif (position + 1) % unseen == 0:
                _stop_unless_finite(losses, position + 1 - unseen, number + 1, keeper)
            if keeper is not None:
                ended = number + 1 if position + 1 == steps else 0
                stop = _stop_agreed(keeper, position + 1, steps, device)
                if is_first() and (stop or keeper.due(ended)):
                    _stop_unless_finite(losses, 0, number + 1, keeper)
                    keeper.save(_state(encoder, optimizer, generated, step + 1, losses, epochs))
                if stop:
                    wait_for_all()  # the first may still be writing, and is killed where another's end ends all
                    keeper.leave(step + 1)


class GlobalBatch(nn.Module):
    """An encoder whose head sees the features of the whole batch, while its backbone sees this process's share.

    So dropout, batch norm and the loss are those of one process.
    """

    def __init__(self, encoder: Encoder, features: Function) -> None:
        super().__init__()
        self.encoder = encoder
        self.features = features

    def forward(self, images: Tensor, count: int) -> Tensor:
        """Logits of all `count` images of a batch, from this process's share of them."""
        logits: Tensor = self.encoder.head(gather_rows(self.features(images), count))
        return logits


def _training_features(
    encoder: Encoder, recipe: Recipe, image: Image, device: torch.device, batch_size: int
) -> Function:
    """The encoder's features as training computes them: compiled for whole batches where that pays."""
    if not compiling_pays(recipe.compile, device):
        return encoder.features
    encoder.train()
    example = torch.zeros(batch_size, 3, image.height, image.width, device=device)
    with autocast(device, recipe.precision):
        return compiled(encoder.features, encoder, example.to(memory_format=torch.channels_last))


def _stop_agreed(keeper: Keeper, position: int, steps: int, device: torch.device) -> bool:
    """Whether to stop after this step of an epoch: at once alone, now and then together, since asking takes time."""
    if rank_and_size()[1] > 1 and position % STEPS_BETWEEN_CHECKS.get(device.type, 1) and position != steps:
        return False
    return any_process(keeper.stop_requested, device)


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch (0-based) sees the images."""
    return torch.randperm(count, generator=derived_generator(seed, epoch, 0))


def _progress_bar(count: int, recipe: Recipe, done: int) -> tqdm:
    total = count * recipe.epochs
    return tqdm(total=total, initial=count * done, desc="train", unit="image", leave=False, disable=None)


def _state(
    encoder: Encoder,
    optimizer: torch.optim.Optimizer,
    generated: GeneratedImages,
    step: int,
    losses: list[Tensor],
    epochs: list[Epoch],
) -> dict[str, Any]:
    return {
        "encoder": encoder.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generated": generated.state(),
        "step": step,
        "losses": torch.stack(losses).tolist() if losses else [],
        "epochs": [asdict(epoch) for epoch in epochs],
    }


def _restore(
    keeper: Keeper | None,
    encoder: Encoder,
    optimizer: torch.optim.Optimizer,
    generated: GeneratedImages,
    device: torch.device,
) -> tuple[int, list[Tensor], list[Epoch]]:
    """The step to begin with, the losses of its epoch so far, and the epochs behind."""
    state = agreed(keeper.load() if keeper is not None and is_first() else None)
    if state is None:
        return 0, [], []
    encoder.load_state_dict(state["encoder"])
    optimizer.load_state_dict(state["optimizer"])
    generated.restore(state["generated"])
    losses = [torch.tensor(loss, device=device) for loss in state["losses"]]
    return state["step"], losses, [Epoch(**epoch) for epoch in state["epochs"]]


def batches(order: Tensor, size: int) -> list[Tensor]:
    """Split indices into batches; a last batch of one joins the one before, since batch norm needs two."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def build_optimizer(encoder: Encoder, choice: Optimizer) -> torch.optim.Optimizer:
    """The optimizer over two groups: backbone and head, each with its base learning rate."""
    groups = [
        {"params": list(encoder.backbone.parameters()), "lr": choice.learning_rate},
        {"params": list(encoder.head.parameters()), "lr": choice.head_learning_rate},
    ]
    for group in groups:
        group["base_learning_rate"] = group["lr"]
    if choice.name == "adamw":
        return torch.optim.AdamW(groups, betas=(choice.momentum, 0.999), weight_decay=choice.weight_decay, fused=True)
    return torch.optim.SGD(
        groups,
        momentum=choice.momentum,
        weight_decay=choice.weight_decay,
        nesterov=choice.name == "sgd-nesterov",
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Multiply each group's base learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_learning_rate"] * factor


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    training: TrainingSet,
    generated: GeneratedImages,
    images: Tensor,
    recipe: Recipe,
    image: Image,
    step: int,
    epoch: int,
) -> Tensor:
    """One update; the loss stays on the device, and nothing here waits for it."""
    pixels = training.pixels
    generator = derived_generator(recipe.seed, step, 1)
    torch.manual_seed(derived_seed(recipe.seed, step, 2))
    crop = (image.height, image.width)
    draw = draw_augmentation(
        len(images),
        (pixels.shape[1], pixels.shape[2]),
        crop,
        generator,
        random_crop=recipe.random_crop,
        horizontal_flip=recipe.horizontal_flip,
        random_erasing=recipe.random_erasing,
    )
    share = share_of(len(images))
    inputs = augment(pixels, images[share], draw.rows(share).to(pixels.device), crop, image.normalization)
    with autocast(pixels.device, recipe.precision):
        logits = network(inputs, len(images))
    targets, weights = training.targets.batch(images), training.weights[images]
    loss = soft_cross_entropy(*generated.supervise(logits, targets, weights, images, epoch))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


def _stop_unless_finite(losses: list[Tensor], first: int, epoch: int, keeper: Keeper | None) -> None:
    """Look at the losses of an epoch, from the step `first` (0-based) on."""
    if not losses[first:]:
        return
    values = torch.stack(losses[first:])
    finite = torch.isfinite(values).tolist()
    if not all(finite):
        place = finite.index(False)
        state = keeper.described() if keeper is not None else "no state was kept"
        raise CheckFailed(
            f"the loss is {float(values[place])} in epoch {epoch}, step {first + place + 1}: training diverged; lower "
            f"optimizer.learning_rate, or use precision: fp32 ({state})"
        )


def _stop_unless_valid(epoch: Epoch, keeper: Keeper | None) -> None:
    """Look at the loss of the held-out images."""
    if epoch.validation_loss is not None and not math.isfinite(epoch.validation_loss):
        state = keeper.described() if keeper is not None else "no state was kept"
        raise CheckFailed(
            f"the loss of the held-out images is {epoch.validation_loss} after epoch {epoch.number}: training "
            f"diverged; lower optimizer.learning_rate, or use precision: fp32 ({state})"
        )


def _warn_without_progress(losses: list[Tensor], recipe: Recipe) -> None:
    quarter = len(losses) // 4
    if len(losses) < STEPS_TO_JUDGE:
        return
    start, end = (float(torch.stack(part).mean()) for part in (losses[:quarter], losses[-quarter:]))
    if end > (1 - LEAST_PROGRESS) * start:
        log.warning(
            "the loss has not fallen in the first epoch: %.4f in its first quarter, %.4f in its last; is "
            "optimizer.learning_rate (%g) too low or too high, or do the labels not fit the images?",
            *(start, end, recipe.optimizer.learning_rate),
        )


def _finish(
    encoder: Encoder,
    losses: list[Tensor],
    optimizer: torch.optim.Optimizer,
    validation: LabeledImages | None,
    number: int,
    image: Image,
    precision: Precision,
) -> Epoch:
    loss, accuracy = validate(encoder, validation, image, precision) if validation is not None else (None, None)
    return Epoch(number, float(torch.stack(losses).mean()), optimizer.param_groups[0]["lr"], loss, accuracy)


@torch.inference_mode()
def validate(
    encoder: Encoder, validation: LabeledImages, image: Image, precision: Precision = "fp32"
) -> tuple[float, float]:
    """Cross-entropy and accuracy on held-out images, which lie on the encoder's device, without augmentation."""
    encoder.eval()
    device = validation.pixels.device
    loss, right = torch.zeros((), device=device), torch.zeros((), device=device)
    for start in range(0, len(validation.labels), VALIDATION_BATCH):
        rows = slice(start, start + VALIDATION_BATCH)
        labels = validation.labels[rows]
        with autocast(device, precision):
            logits = encoder(to_input(validation.pixels[rows], image)).float()
        loss += nn.functional.cross_entropy(logits, labels, reduction="sum")
        right += (logits.argmax(dim=1) == labels).sum()
    return float(loss) / len(validation.labels), float(right) / len(validation.labels)


def describe(epoch: Epoch, epochs: int) -> str:
    """One log line on an epoch."""
    line = f"epoch {epoch.number}/{epochs}: loss {epoch.loss:.4f}"
    if epoch.validation_accuracy is not None:
        line += f", validation accuracy {epoch.validation_accuracy:.3f}, loss {epoch.validation_loss:.4f}"
    return line
