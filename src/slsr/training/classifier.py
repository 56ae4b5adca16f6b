"""Training a classifier of identities on real and generated images alike."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from slsr.errors import CheckFailed
from slsr.images.augmentation import augment, draw_augmentation, to_input
from slsr.images.loading import LabelledImages
from slsr.labels import Targets
from slsr.losses import soft_cross_entropy
from slsr.models.encoder import Encoder
from slsr.params import Image, Optimizer, Recipe
from slsr.training.generated import AS_LABELLED, GeneratedImages
from slsr.training.launch import autocast
from slsr.training.processes import (
    agreed,
    any_process,
    gather_rows,
    is_first,
    rank_and_size,
    share_network,
    share_of,
    synchronise_batch_norm,
)
from slsr.training.resume import Keeper, derived_generator, derived_seed
from slsr.training.schedule import learning_rate_factor

log = logging.getLogger(__name__)

STEPS_BETWEEN_CHECKS = 25
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
    def of_labelled(cls, images: LabelledImages) -> TrainingSet:
        """Labelled images, each with all weight on its label."""
        classes = int(images.labels.max()) + 1
        targets = Targets(torch.eye(classes), images.labels)
        return cls(images.pixels, targets, torch.ones(len(images.labels)))

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
    validation: LabelledImages | None,
    recipe: Recipe,
    image: Image,
    device: torch.device,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    keeper: Keeper | None = None,
    generated: GeneratedImages = AS_LABELLED,
) -> None:
    """Train an encoder in place; its state after the last epoch is the result.

    A batch is drawn from one shuffled union of all images. An epoch sees each image once. Order, augmentation and
    dropout of a step follow from the recipe's seed and the number of the step alone.

    Parameters
    ----------
    encoder : with its initial weights
    recipe : epochs, batch size, augmentation, optimiser, schedule, seed
    on_epoch : called after each epoch, and again for those that a resumed run had behind it
    keeper : keeps the state of the run, and gives that of an interrupted one
    generated : labels and noise layer of generated images that move as training goes; the noise layer in place

    Raises
    ------
    CheckFailed
        The loss became infinite or not a number; the message names epoch and step.
    Interrupted
        A signal asked for the end; the state is saved.
    """
    encoder.to(device).to(memory_format=torch.channels_last)
    training = training.to(device)
    generated.to(device)
    synchronise_batch_norm(encoder.backbone, device)
    optimizer = build_optimizer(encoder, recipe.optimizer)
    count = len(training.pixels)
    steps = len(batches(torch.arange(count), recipe.batch_size))
    first, losses, epochs = _restore(keeper, encoder, optimizer, generated, device)
    for epoch in epochs:
        on_epoch(epoch)
    network = share_network(GlobalBatch(encoder), device)
    with _progress_bar(count, recipe, first // steps) as bar:
        for step in range(first, steps * recipe.epochs):
            number, position = divmod(step, steps)
            if position == 0 or step == first:
                order = batches(epoch_order(count, recipe.seed, number), recipe.batch_size)
                encoder.train()
            factor = learning_rate_factor(recipe.schedule, step, steps, recipe.epochs)
            set_learning_rate(optimizer, factor)
            losses.append(_step(network, optimizer, training, generated, order[position], recipe, image, step, number))
            generated.learn(factor)
            bar.update(len(order[position]))
            if position + 1 == steps:
                epochs.append(_finish(encoder, losses, optimizer, validation, number + 1, image, device))
                log.info("%s", describe(epochs[-1], recipe.epochs))
                on_epoch(epochs[-1])
                losses = []
            elif (position + 1) % STEPS_BETWEEN_CHECKS == 0:
                _stop_unless_finite(losses, number + 1)
            if keeper is not None:
                stop = _stop_agreed(keeper, position + 1, steps, device)
                if is_first() and (stop or keeper.due()):
                    keeper.save(_state(encoder, optimizer, generated, step + 1, losses, epochs))
                if stop:
                    keeper.leave(step + 1)


class GlobalBatch(nn.Module):
    """An encoder whose head sees the features of the whole batch, while its backbone sees this process's share.

    So dropout, batch norm and the loss are those of one process.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor, count: int) -> Tensor:
        """Logits of all `count` images of a batch, from this process's share of them."""
        logits: Tensor = self.encoder.head(gather_rows(self.encoder.features(images), count))
        return logits


def _stop_agreed(keeper: Keeper, position: int, steps: int, device: torch.device) -> bool:
    """Whether to stop after this step of an epoch: at once alone, now and then together, since asking takes time."""
    if rank_and_size()[1] > 1 and position % STEPS_BETWEEN_CHECKS and position != steps:
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
        "losses": [float(loss) for loss in losses],
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
    """The optimiser over two groups: backbone and head, each with its base learning rate."""
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
    """One update; the loss stays on the device."""
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
    images = images.to(pixels.device, non_blocking=True)
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


def _stop_unless_finite(losses: list[Tensor], epoch: int) -> None:
    finite = torch.isfinite(torch.stack(losses))
    if not finite.all():
        step = int((~finite).nonzero()[0]) + 1
        raise CheckFailed(
            f"the loss is {float(losses[step - 1])} in epoch {epoch}, step {step}: training diverged; lower "
            "optimizer.learning_rate, or use precision: fp32"
        )


def _finish(
    encoder: Encoder,
    losses: list[Tensor],
    optimizer: torch.optim.Optimizer,
    validation: LabelledImages | None,
    number: int,
    image: Image,
    device: torch.device,
) -> Epoch:
    _stop_unless_finite(losses, number)
    loss, accuracy = validate(encoder, validation, image, device) if validation is not None else (None, None)
    return Epoch(number, float(torch.stack(losses).mean()), optimizer.param_groups[0]["lr"], loss, accuracy)


@torch.inference_mode()
def validate(encoder: Encoder, validation: LabelledImages, image: Image, device: torch.device) -> tuple[float, float]:
    """Cross-entropy and accuracy on held-out images, without augmentation."""
    encoder.eval()
    loss, right = torch.zeros((), device=device), torch.zeros((), device=device)
    for start in range(0, len(validation.labels), VALIDATION_BATCH):
        rows = slice(start, start + VALIDATION_BATCH)
        labels = validation.labels[rows].to(device)
        logits = encoder(to_input(validation.pixels[rows].to(device), image))
        loss += nn.functional.cross_entropy(logits, labels, reduction="sum")
        right += (logits.argmax(dim=1) == labels).sum()
    return float(loss) / len(validation.labels), float(right) / len(validation.labels)


def describe(epoch: Epoch, epochs: int) -> str:
    """One log line on an epoch."""
    line = f"epoch {epoch.number}/{epochs}: loss {epoch.loss:.4f}"
    if epoch.validation_accuracy is not None:
        line += f", validation accuracy {epoch.validation_accuracy:.3f}, loss {epoch.validation_loss:.4f}"
    return line
