"""The model card of an artifact: what it is, what it learned from, how good it is, where it must not be used.

Everything in it comes from what git keeps of the run: dvc.yaml, dvc.lock and metrics/. So a card can be written in a
clone without data, and it is always about the run of its model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slsr.datasets.collection import CAMERAS_UNKNOWN
from slsr.errors import CheckFailed, InputError
from slsr.files import METRICS, read_json
from slsr.labels.regularizers import regularizer_named
from slsr.markdown import table
from slsr.params.dataset import SAMPLE
from slsr.project.lock import LOCK, Stages, chain, load_yaml, other_inputs, outputs, parse_lock
from slsr.project.revisions import md5_of
from slsr.reporting.titles import QUALITY_MEASURES, QUALITY_SPACES, RANKINGS, RETRIEVAL_MEASURES, describe_verdict

REPORT = "report"
FLOORS = {"untrained": "floor: the same network before training", "color_histogram": "floor: color histogram"}


def model_card(name: str, root: Path) -> str:
    """Write the card of an artifact of dvc.yaml, as Markdown.

    Raises
    ------
    InputError
        There is no such artifact, or a file that the card is made of is missing or unreadable.
    CheckFailed
        A file in metrics/ is not the one that dvc.lock records, or a stage above the report has not read what the stage
        before it wrote last: the numbers would be those of another model.
    """
    artifact, stages = _artifact(name, root), parse_lock(_read(root / LOCK), LOCK)
    stage, out = _producer(artifact["path"], stages)
    _require_metrics_of_the_run(root, stages)
    params = {key: value for one in stages.values() for key, value in _params(one).items()} | _params(stages[stage])
    facts = read_json(root / METRICS / "dataset.json")
    parts = [f"# {name}", artifact["desc"] + ".", _identity(artifact, out), "## Data", _data(params["dataset"], facts)]
    parts += ["## Recipe", _recipe_of(stage, params), "## Numbers", *_numbers_of(stage, params, root)]
    parts += ["## Limits", _limits(params["dataset"], params, stage), "## Ethics", _ethics(stage, params["dataset"])]
    return "\n\n".join([*parts, "## Use", _use(name, stage, artifact["path"], params)]) + "\n"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; run this in the root of the project, after `dvc repro`") from error


def _artifact(name: str, root: Path) -> Mapping[str, Any]:
    """Return what dvc.yaml says about an artifact."""
    pipeline = load_yaml(_read(root / "dvc.yaml"), "dvc.yaml") or {}
    artifacts: Mapping[str, Any] = pipeline.get("artifacts", {})
    if name not in artifacts:
        raise InputError(f"artifact {name!r}: not in dvc.yaml; choose one of {', '.join(artifacts)}")
    one: Mapping[str, Any] = artifacts[name]
    return one


def _producer(path: str, stages: Stages) -> tuple[str, Mapping[str, Any]]:
    """Return the stage that wrote an artifact, and what dvc.lock records about the artifact."""
    for stage, entry in stages.items():
        for out in entry["outs"]:
            if out["path"] == path:
                return stage, out
    raise InputError(f"dvc.lock: no stage has written {path}; run `dvc repro`")


def _require_metrics_of_the_run(root: Path, stages: Stages) -> None:
    """Raise if metrics/ is not what the report wrote, or if the report is not about what dvc.lock records."""
    if REPORT not in stages:
        raise InputError("dvc.lock: the stage report has not run; run `dvc repro`")
    for name, md5 in outputs(stages[REPORT]).items():
        path = root / name
        if path.suffix != ".json":
            continue
        if not path.is_file():
            raise InputError(f"{path}: no such file; `git checkout {name}`, or run `dvc repro`")
        if md5_of(path.read_bytes()) != md5:
            raise CheckFailed(f"{path}: not what dvc.lock records; run `dvc repro report`, then write the card again")
    for reader in chain(stages, REPORT):
        for path_read, writer in other_inputs(stages, reader):
            raise CheckFailed(
                f"dvc.lock: {reader} has not read the {path_read} that {writer} wrote last, so the numbers in metrics/ "
                "are those of another model; run `dvc repro`, then write the card again"
            )


def _recipe_of(stage: str, params: Mapping[str, Any]) -> str:
    if stage == "train_encoder":
        return _recipe(params["encoder"], params["image"], None, params)
    if stage.startswith("train@"):
        return _recipe(params["train"], params["image"], stage.partition("@")[2], params)
    return _gan(params["gan"], params["generate"])


def _numbers_of(stage: str, params: Mapping[str, Any], root: Path) -> Iterator[str]:
    if stage == "train_encoder":
        yield _clusters(read_json(root / METRICS / "clusters.json"))
    elif stage.startswith("train@"):
        yield from _numbers(root, stage.partition("@")[2], params["train"]["seed"])
    else:
        yield from _generated(read_json(root / METRICS / "generated.json"))


def _params(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameter blocks of a stage in dvc.lock; dotted keys repeat parts of other blocks."""
    values = entry.get("params", {}).get("params.yaml", {})
    return {key: value for key, value in values.items() if isinstance(value, dict) and "." not in key}


def _identity(artifact: Mapping[str, Any], out: Mapping[str, Any]) -> str:
    return f"`{artifact['path']}`, {out['size'] / 1e6:,.1f} MB, md5 `{out['md5']}`."


def _data(dataset: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    splits = facts["splits"]
    counts = ", ".join(f"{part['images']:,} {name.replace('_', '-')}" for name, part in splits.items())
    train = splits["train"]
    text = (
        f"`{dataset['archive']}` ({facts['dataset']}): {counts} images; {facts['training_identities']:,} training "
        f"identities seen by {train['cameras']} cameras, {splits['query']['identities']:,} other identities as queries."
    )
    if dataset["identities"]:
        text += f" Only the first {dataset['identities']} training and test identities are used."
    if dataset["archive"] == SAMPLE:
        text += " The images are drawn by `slsr sample` and show no real person."
    return text


def _normalization(image: Mapping[str, Any]) -> str:
    own = image["normalization"] == "backbone"
    return "normalized as the backbone's weights expect" if own else f"{image['normalization']} normalization"


def _other_parts(recipe: Mapping[str, Any]) -> Iterator[str]:
    """Name the parts of a recipe that are off by default; a run of an earlier version lacks them."""
    if recipe.get("last_stride") == 1:
        yield "last stride 1"
    if recipe.get("pooling", "average") != "average":
        yield f"pooling {recipe['pooling']}"
    if recipe.get("sampler") == "identities":
        yield f"batches of people with {recipe['images_per_identity']} images each"
    for loss in ("triplet", "center"):
        if recipe.get(loss, {}).get("weight"):
            yield f"{loss} loss times {recipe[loss]['weight']:g}"
    names = {"label_smoothing": "label smoothing", "padding": "padding", "color_jitter": "color jitter", "ema": "EMA"}
    yield from (f"{name} {recipe[key]:g}" for key, name in names.items() if recipe.get(key))


def _recipe(recipe: Mapping[str, Any], image: Mapping[str, Any], leg: str | None, params: Mapping[str, Any]) -> str:
    optimizer, schedule = recipe["optimizer"], recipe["schedule"]
    steps = recipe.get("steps")
    length = f"{steps:,} steps" if steps else f"{recipe['epochs']} epochs"
    rows = [
        ("network", f"{recipe['backbone']}, head {recipe['head']}, weights {recipe['weights']}"),
        ("input", f"{image['height']}x{image['width']} pixels, {_normalization(image)}"),
        (
            "training",
            f"{length} of batches of {recipe['batch_size']}, seed {recipe['seed']}"
            + (", the weights of the epoch with the highest validation mAP" if recipe.get("keep") == "best" else ""),
        ),
        ("optimizer", f"{optimizer['name']}, rate {optimizer['learning_rate']:g} ({schedule['name']})"),
        ("random erasing", f"{recipe['random_erasing']:g}"),
        *([("also", ", ".join(parts))] if (parts := list(_other_parts(recipe))) else []),
        ("precision", recipe["precision"]),
    ]
    if leg is not None:
        rows.append(("labels of generated images", _labels(leg, params)))
    return table(["", ""], rows, right=[False, False])


def _labels(leg: str, params: Mapping[str, Any]) -> str:
    """Describe the labels of generated images by the name of the regularizer."""
    choice = regularizer_named(leg)
    if not choice.sees_generated:
        return choice.label
    images, clusters = params["generate"]["images"], params["cluster"]["k"]
    return f"{choice.label}; {images:,} images, k = {clusters}, weight {params['generated']['weight']:g}"


def _numbers(root: Path, leg: str, seed: int) -> Iterator[str]:
    runs, floors = read_json(root / METRICS / f"{leg}.json"), read_json(root / METRICS / "floors.json")
    rankings = [name for name in RANKINGS if name in runs]
    rows = [[RANKINGS[name].lower(), *_cells(runs[name])] for name in rankings]
    rows += [[text, *_cells(floors[name][rankings[0]])] for name, text in FLOORS.items() if name in floors]
    first = runs[rankings[0]]
    if "people" not in first:
        raise CheckFailed(
            f"{root / METRICS / leg}.json: no number of people; it is of an earlier version: run `dvc repro`"
        )
    yield (
        f"Numbers are in percent, of {first['queries']:,} queries of {first['people']:,} people against "
        f"{first['gallery']:,} gallery images. In brackets is the 95 % interval of a bootstrap over people with all "
        f"their queries. It covers the choice of people, but not the seed of training ({seed}), nor the processor: "
        "another seed, and the same seed on another processor, change every row."
    )
    if first.get("cameras") == "unknown":
        yield f"**{CAMERAS_UNKNOWN}**"
    yield table(["", *RETRIEVAL_MEASURES.values()], rows)
    difference = read_json(root / METRICS / "comparison.json").get(f"{leg}_minus_none")
    if difference:
        one = difference[rankings[0]]
        compared = (name for name in ("rank1", "map_trapezoid") if name in one)
        differences = ", ".join(f"{RETRIEVAL_MEASURES[name]} {_difference(one[name])}" for name in compared)
        yield (
            f"Minus the baseline with the same recipe, paired over people, in points: {differences}. This holds for "
            "these two networks; it says nothing about other seeds of the two methods."
        )


def _cells(measured: Mapping[str, Any]) -> list[str]:
    return [_cell(measured, name) for name in RETRIEVAL_MEASURES]


def _cell(measured: Mapping[str, Any], name: str) -> str:
    if measured.get(name) is None:
        return "-"
    text = f"{100 * measured[name]:.1f}"
    interval = measured.get(f"{name}_ci95")
    return f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else text


def _difference(one: Mapping[str, Any]) -> str:
    text = f"{100 * one['difference']:+.1f}"
    if one["ci95"] is None:
        return f"{text} (one person: no interval)"
    low, high = (100 * bound for bound in one["ci95"])
    return f"{text} [{low:+.1f}, {high:+.1f}]"


def _clusters(clusters: Mapping[str, Any]) -> str:
    rows = [
        (str(one["k"]), f"{one['silhouette_full_dimension']:.3f}", f"{one['silhouette_two_components']:.3f}")
        for one in clusters["sweep"]
        if one["silhouette_full_dimension"] is not None
    ]
    return "Silhouettes of its features under k-means:\n\n" + table(
        ["k", "full dimension", "two principal components"], rows
    )


GAN_DISCRIMINATORS = {
    "pixels": "of pixels",
    "projected": "of projected features of EfficientNet-Lite0",
    "both": "of projected features of EfficientNet-Lite0 and of pixels",
}


def _gan(gan: Mapping[str, Any], generate: Mapping[str, Any]) -> str:
    parent = f"{gan['parent_epochs']} epochs of a common parent, then " if gan["parent_epochs"] else ""
    generator = {"dcgan": "DCGAN", "light": "light generator (FastGAN's blocks)"}[gan["generator"]]
    told = "one that is told the cluster" if gan["kind"] == "conditional" else "one for each cluster"
    rows = [
        ("generator", f"{generator}, {told}, {gan['height']}x{gan['width']} pixels, latent {gan['latent']}"),
        ("discriminator", GAN_DISCRIMINATORS[gan["discriminator"]]),
        ("training", f"{parent}{gan['epochs']} epochs of batches of {gan['batch_size']}, seed {gan['seed']}"),
        ("loss", f"{gan['loss']}, Adam at {gan['learning_rate']:g}"),
        ("images drawn", f"{generate['images']:,}, {generate['allocation']} over the clusters"),
    ]
    return table(["", ""], rows, right=[False, False])


def _generated(generated: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"{describe_verdict(generated)} These measures compare generated images with real ones, in several feature "
        "spaces. In brackets is the reference: real images compared with real ones."
    )
    overall = generated["overall"]
    spaces = [name for name in QUALITY_SPACES if name in overall]
    rows = [
        [text, *(_measured(overall[space].get(name)) for space in spaces)] for name, text in QUALITY_MEASURES.items()
    ]
    yield table(["", *(QUALITY_SPACES[space] for space in spaces)], rows)
    alarms = generated["alarms"]
    yield f"Alarms: {len(alarms)}; metrics/generated.json has them." if alarms else "No alarm."


def _measured(one: Mapping[str, Any] | None) -> str:
    if one is None or one["value"] is None:
        return "-"
    reference = one.get("reference")  # metrics of an earlier version have it under another name
    return f"{one['value']:.3f}" + ("" if reference is None else f" [{reference:.3f}]")


def _limits(dataset: Mapping[str, Any], params: Mapping[str, Any], stage: str) -> str:
    lines = ["This is one training run with one seed. How much another seed would change is not known."]
    if stage.startswith("train@"):
        lines += [
            "It was measured on the test identities of the same data set. Other cameras, clothes, seasons and "
            "countries were not measured, and re-identification is known to lose much of its accuracy there.",
            "Nothing was measured by skin color, sex, age or disability: assume that some groups of people have more "
            "errors than others.",
        ]
    if dataset["archive"] == SAMPLE:
        lines.append("It has seen drawn figures only. It is useless for photographs; it shows that the pipeline works.")
    if stage.startswith("train@") and params["train"]["weights"] == "imagenet":
        lines.append("The backbone started from ImageNet weights and has their limits, too.")
    if stage == "train_gan":
        lines.append(
            "Generated images can repeat training images; `copies` above counts the ones that were found, not all."
        )
    return "\n".join(f"- {line}" for line in lines)


def _ethics(stage: str, dataset: Mapping[str, Any]) -> str:
    text = (
        "Person re-identification finds the same body in the pictures of several cameras. It can be used to follow "
        "people who did not agree to it and cannot notice it; in many places that is unlawful, and where it is lawful "
        "it still can do harm. This model is for research on methods: comparing regularizers, protocols and "
        "measurements. It is not for watching people, for identifying anybody, for decisions about a person, nor for "
        "deployment. A match means that clothes and shape look alike; it is never evidence of who somebody is."
    )
    if dataset["archive"] != SAMPLE:
        text += (
            " The training images show real people, who were filmed in public and were mostly not asked. Keep to the "
            "terms under which the data set was obtained (docs/ethics.md says what is known of them)"
        )
        text += (
            "; generators can give back what they were trained on: treat them and their images as that data."
            if stage == "train_gan"
            else ", also for what this model was trained on."
        )
    return text


def _use(name: str, stage: str, path: str, params: Mapping[str, Any]) -> str:
    fetch = f"```console\ndvc artifacts get REPOSITORY {name} --rev VERSION\n```"
    if stage == "train_gan":
        load = "from pathlib import Path\n\nfrom slsr.gan.networks import load_generator\n\ngenerator = load_generator("
        file = "conditional" if params["gan"]["kind"] == "conditional" else "cluster_0"
        return f'{fetch}\n\n```python\n{load}Path("{path}/{file}.safetensors"))\n```'
    load = f'from slsr import load_encoder\n\nfeatures = load_encoder("{path}").embed(["one.jpg", "another.jpg"])'
    return f"{fetch}\n\n```python\n{load}\n```\n\ndocs/using.md and docs/explore.md show more uses."
