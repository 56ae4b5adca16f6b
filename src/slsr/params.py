"""The schema of params.yaml: the one place where parameters are validated.

Every knob is required, so that params.yaml alone says what a run was; presets/defaults.yaml explains each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from slsr.errors import InputError

Backbone = Literal["resnet18", "resnet50", "densenet121"]
HeadName = Literal["plain", "linear", "bottleneck"]
Normalization = Literal["imagenet", "symmetric", "unit"]
Interpolation = Literal["bilinear", "bicubic"]
Precision = Literal["fp32", "tf32", "bf16"]
Regularizer = Literal["none", "lsr", "lsro", "slsr", "slsr-weighted", "one-hot", "mprl"]
StudiedRegularizer = Literal["lsr", "slsr-weighted", "one-hot", "mprl"]  # studies/dvc.yaml's
COMMITTED_REGULARIZERS: tuple[Regularizer, ...] = ("none", "lsro", "slsr")  # dvc.yaml's
Compile = Literal["auto", "never"]
NO_WEIGHTS_FILE = ("imagenet", "none")
DiscriminatorActivation = Literal["leaky-relu", "relu"]
DiscriminatorBatchNorm = Literal["all-but-first", "all", "none"]
Upsampling = Literal["transposed", "nearest"]
GanLoss = Literal["cross-entropy", "hinge"]
GanKind = Literal["per-cluster", "conditional"]
OnCollapse = Literal["warn", "stop", "restart"]
GanAugmentation = Literal["colour", "translation", "cutout"]

PUBLISHED = ("market1501", "dukemtmc", "cuhk03", "viper")
SAMPLE = "slsr-sample.zip"  # in the published arrangement of market1501, but drawn

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
RemoteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Block(BaseModel):
    """A block of params.yaml: no unknown key, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Dataset(Block):
    """Which archive, and how it is split."""

    name: Literal["market1501", "dukemtmc", "cuhk03", "viper", "table", "folder"]
    archive: Annotated[str, Field(min_length=1)]
    protocol: Literal["classic", "np"] | None
    boxes: Literal["detected", "labeled"] | None
    split: Count | None
    identities: Annotated[int, Field(ge=2)] | None
    validation: Literal["one-per-identity", "none"]
    unreadable_images: Literal["fail", "skip"]
    seed: Seed

    @model_validator(mode="after")
    def archive_stays_in_data(self) -> Self:
        path = Path(self.archive)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"archive {self.archive!r} must be a path below data/, without `..`")
        return self

    @model_validator(mode="after")
    def split_is_one_of_the_data_set(self) -> Self:
        if problem := split_problem(self.name, self.protocol, self.boxes, self.split):
            raise ValueError(problem)
        return self


def split_problem(name: str, protocol: str | None, boxes: str | None, split: int | None) -> str | None:
    """Why these do not name a split of the data set; None where they do."""
    for key, value, allowed in (("protocol", protocol, ("classic", "np")), ("boxes", boxes, ("detected", "labeled"))):
        if name == "cuhk03" and value not in allowed:
            return f"{key} {_shown(value)}, but name: cuhk03 needs {' or '.join(allowed)}"
        if name != "cuhk03" and value is not None:
            return f"{key} {value} means nothing for name: {name}; make it null"
    splits = 10 if name == "viper" else 20 if protocol == "classic" else 0
    whose = f"name: {name}" + (f" with protocol: {protocol}" if protocol else "")
    if splits and (split is None or not 1 <= split <= splits):
        return f"split {_shown(split)}, but {whose} has the splits 1 to {splits}; choose one"
    if not splits and split is not None:
        return f"split {split} means nothing for {whose}; make it null"
    return None


def _shown(value: object) -> str:
    return "null" if value is None else str(value)


class Image(Block):
    """The input of the networks, in pixels."""

    height: Annotated[int, Field(ge=32)]
    width: Annotated[int, Field(ge=32)]
    resize_height: Annotated[int, Field(ge=32)]
    resize_width: Annotated[int, Field(ge=32)]
    interpolation: Interpolation
    normalization: Normalization
    test: Literal["whole", "centre-crop"]

    @model_validator(mode="after")
    def crop_fits(self) -> Self:
        if self.height > self.resize_height or self.width > self.resize_width:
            raise ValueError(
                f"the crop height x width = {self.height}x{self.width} is larger than the resized image "
                f"resize_height x resize_width = {self.resize_height}x{self.resize_width}; make it at most that"
            )
        return self


class Optimizer(Block):
    """How weights are updated."""

    name: Literal["sgd", "sgd-nesterov", "adamw"]
    learning_rate: Positive
    head_learning_rate: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def nesterov_has_momentum(self) -> Self:
        if self.name == "sgd-nesterov" and self.momentum == 0:
            raise ValueError("momentum 0 contradicts name: sgd-nesterov; raise it, or use name: sgd")
        return self


class Schedule(Block):
    """How the learning rate moves."""

    name: Literal["constant", "step", "inverse-iteration", "inverse-epoch", "one-cycle"]
    step_epochs: Count
    step_factor: Annotated[float, Field(gt=0, lt=1)]
    inverse_gamma: Positive
    inverse_power: Positive
    one_cycle_warmup: Annotated[float, Field(gt=0, lt=1)]


class Recipe(Block):
    """What training a classifier of identities takes, for the encoder and the re-ID network alike."""

    backbone: Backbone
    weights: Annotated[str, Field(min_length=1)]
    head: HeadName
    epochs: Count
    batch_size: Annotated[int, Field(ge=2)]
    random_crop: bool
    horizontal_flip: bool
    random_erasing: Share
    precision: Precision
    deterministic: bool
    compile: Compile
    seed: Seed
    optimizer: Optimizer
    schedule: Schedule

    @model_validator(mode="after")
    def weights_stay_in_their_folder(self) -> Self:
        path = Path(self.weights)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(
                f"weights {self.weights!r} must be imagenet, none, or a file below weights/, named from there, so that "
                "DVC sees when it changes; put the file (or a link to it) there"
            )
        return self


class Train(Recipe):
    """The re-ID network: one recipe for the baseline and every regulariser."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)]


class Cluster(Block):
    """K-means over the features, and which identities a cluster holds."""

    k: Annotated[int, Field(ge=1)] | Literal["auto"]
    sweep: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]
    initialization: Literal["k-means++", "random"]
    restarts: Count
    max_iterations: Count
    minibatch_above: Annotated[int, Field(ge=100)]
    minimum_images: Count
    seed: Seed

    @model_validator(mode="after")
    def sweep_has_k(self) -> Self:
        if len(set(self.sweep)) != len(self.sweep):
            raise ValueError(f"sweep {self.sweep} names a k twice; name each once")
        if self.k == "auto" and max(self.sweep) < 2:
            raise ValueError(f"k: auto needs a k of at least 2 in sweep, which is {self.sweep}")
        if max(self.sweep) > self.minibatch_above:
            raise ValueError(
                f"sweep {self.sweep} asks for more clusters than minibatch_above {self.minibatch_above}, the images "
                "that a silhouette is taken of; raise minibatch_above"
            )
        if self.k != "auto" and self.k not in self.sweep:
            raise ValueError(f"sweep {self.sweep} lacks the chosen k {self.k}; add it to sweep, or choose another k")
        return self


class Collapse(Block):
    """When a trained generator counts as collapsed, and how often it is trained again."""

    coverage: Share
    duplicates: Share
    restarts: Count


class Gan(Block):
    """The DCGANs, one a cluster, or one that is told the cluster."""

    kind: GanKind
    height: Annotated[int, Field(ge=32)]
    width: Annotated[int, Field(ge=32)]
    latent: Count
    channels: Annotated[int, Field(ge=4)]
    upsampling: Upsampling
    parent_epochs: Annotated[int, Field(ge=0)]
    epochs: Count
    minimum_steps: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=2)]
    loss: GanLoss
    learning_rate: Positive
    beta1: Annotated[float, Field(ge=0, lt=1)]
    generator_steps: Count
    discriminator_activation: DiscriminatorActivation
    discriminator_batch_norm: DiscriminatorBatchNorm
    spectral_norm: bool
    r1: Annotated[float, Field(ge=0)]
    augmentation: list[GanAugmentation]
    ema: Annotated[float, Field(ge=0, lt=1)]
    on_collapse: OnCollapse
    collapse: Collapse
    precision: Precision
    deterministic: bool
    seed: Seed

    @model_validator(mode="after")
    def sizes_divide(self) -> Self:
        if self.height % 16 or self.width % 16:
            raise ValueError(
                f"height x width = {self.height}x{self.width}: both must be multiples of 16 (four stride-2 layers)"
            )
        if len(set(self.augmentation)) != len(self.augmentation):
            raise ValueError(f"augmentation {self.augmentation} names one twice; name each once")
        return self

    @model_validator(mode="after")
    def conditional_has_no_parent(self) -> Self:
        if self.kind == "conditional" and self.parent_epochs:
            raise ValueError(
                f"parent_epochs {self.parent_epochs} means nothing for kind: conditional, one network; make it 0"
            )
        return self


class Alarms(Block):
    """Limits beyond which generated images are called collapsed, memorised, unlike the real ones or narrow."""

    coverage: Share
    duplicates: Share
    copies: Share
    precision: Share
    recall: Share


class Generate(Block):
    """How many images come out of the generators, how they are stored, and when their quality sounds an alarm."""

    images: Count
    allocation: Literal["equal", "proportional"]
    jpeg_quality: Annotated[int, Field(ge=50, le=100)]
    alarms: Alarms
    seed: Seed


class Generated(Block):
    """What generated images weigh in training, and whether a noise layer stands between them and their labels."""

    weight: Annotated[float, Field(ge=0)]
    noise_learning_rate: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def noise_layer_can_learn(self) -> Self:
        if self.noise_learning_rate > 0 and self.weight == 0:
            raise ValueError(
                f"noise_learning_rate {self.noise_learning_rate} contradicts weight 0, which leaves the noise layer "
                "nothing to learn from; raise weight, or make noise_learning_rate 0"
            )
        return self


class Lsr(Block):
    """Label smoothing of real images, as a regulariser of its own."""

    epsilon: Annotated[float, Field(gt=0, lt=1)]


class PseudoLabels(Block):
    """The regularisers that label generated images by the network's own predictions, one-hot and mprl."""

    start: Annotated[float, Field(ge=0, lt=1)]


class Rerank(Block):
    """k-reciprocal re-ranking (Zhong et al., CVPR 2017)."""

    k1: Count
    k2: Count
    lambda_value: Share
    junk: Literal["keep", "drop"]


class Bootstrap(Block):
    """Confidence intervals over queries."""

    resamples: Annotated[int, Field(ge=100)]
    seed: Seed


class RankedList(Block):
    """The picture of ranked lists."""

    queries: Count
    depth: Count


class Evaluate(Block):
    """Features of query and gallery, ranking, re-ranking, intervals."""

    flip: bool
    batch_size: Count
    multi_query: Literal["mean", "max"]
    rerank: Rerank
    bootstrap: Bootstrap
    ranked_list: RankedList


class Studies(Block):
    """Which regularisers studies/dvc.yaml has stages for, beside dvc.yaml's own."""

    regularizers: list[StudiedRegularizer]

    @model_validator(mode="after")
    def regularizers_differ(self) -> Self:
        if len(set(self.regularizers)) != len(self.regularizers):
            raise ValueError(f"regularizers {self.regularizers} names one twice; name each once")
        return self


class Sharing(Block):
    """Which DVC remote may have what shows people; null is the default remote, no stage reads this."""

    prepared: RemoteName | None
    pictures: RemoteName | None
    generated: RemoteName | None

    @model_validator(mode="after")
    def what_shows_more_goes_no_further(self) -> Self:
        for more, less in (("prepared", "pictures"), ("pictures", "generated")):
            allowed = getattr(self, less)
            if allowed is not None and getattr(self, more) is None:
                raise ValueError(
                    f"{more} null, while {less} go to {allowed} alone: {more} show as much; name a remote there too"
                )
        return self


class Params(Block):
    """All of params.yaml."""

    dataset: Dataset
    image: Image
    encoder: Recipe
    cluster: Cluster
    gan: Gan
    generate: Generate
    generated: Generated
    lsr: Lsr
    pseudo_labels: PseudoLabels
    train: Train
    evaluate: Evaluate
    studies: Studies
    share: Sharing

    @model_validator(mode="after")
    def people_are_not_shared_by_oversight(self) -> Self:
        dataset = self.dataset
        unnamed = [f"share.{what}" for what, remote in self.share.model_dump().items() if remote is None]
        if dataset.name in PUBLISHED and dataset.archive != SAMPLE and unnamed:
            raise ValueError(
                f"{', '.join(unnamed)} null, but {dataset.archive} ({dataset.name}) shows people, under a licence: "
                "name the remote that may have their images, or `private`, which keeps them in this clone "
                "(docs/sharing.md)"
            )
        return self


def check_regularizer(params: Params, regularizer: Regularizer) -> None:
    """Refuse parameters that leave a regulariser without a meaning.

    Raises
    ------
    InputError
        `lsr` beside `train.label_smoothing`, which every leg shares, the baseline too.
    """
    if regularizer == "lsr" and params.train.label_smoothing > 0:
        raise InputError(
            f"train.label_smoothing {params.train.label_smoothing} smooths the real images of every leg, so that the "
            "baseline is LSR already; make it 0 to run lsr, whose own is lsr.epsilon"
        )


def load_params(path: Path) -> Params:
    """Read and validate a params.yaml, as YAML 1.2, which is how DVC reads it: 1e-3 is a number, no key stands twice.

    Raises
    ------
    InputError
        The file is missing, is not YAML, or a key is unknown, missing, of the wrong type or in contradiction
        with another; the message names every such key, its value and what is allowed.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; run `slsr preset sample` to write one, or work in the project's root")
    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML ({error}); mend it, or write it anew with `slsr preset`") from error
    return validate_params(values, str(path))


def validate_params(values: Any, source: str) -> Params:
    """Validate parsed parameters; `source` names their file in the message."""
    if not isinstance(values, dict):
        raise InputError(f"{source}: holds {type(values).__name__}, not blocks; see presets/defaults.yaml")
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {_describe(problem)}" for problem in error.errors())
        raise InputError(f"{source}: not valid\n{problems}") from error


def _describe(problem: Any) -> str:
    unknown = problem["type"] == "extra_forbidden"
    key = ".".join(str(part) for part in problem["loc"] if unknown or not _is_branch(part))
    value = problem["input"]
    match problem["type"]:
        case "missing":
            return f"{key}: missing; presets/defaults.yaml has it with its default"
        case "extra_forbidden":
            return f"{key}: unknown key (value {value!r}); remove it or mend its spelling"
        case "value_error":
            return f"{key}: {problem['ctx']['error']}" if key else str(problem["ctx"]["error"])
        case _:
            return f"{key}: {value!r} is not allowed; {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _is_branch(part: int | str) -> bool:
    """Whether a part of the location is pydantic's name of one branch of a union, not a key."""
    return isinstance(part, str) and (part in {"int", "float", "str", "none"} or "[" in part or "constrained" in part)
