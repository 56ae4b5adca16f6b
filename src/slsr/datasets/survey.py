"""Survey what `prepare` would find in an archive, without writing anything, and compare it with published counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slsr.datasets.archive import open_archive
from slsr.datasets.arrangement import TABLES, Arrangement, TableName, arrange
from slsr.datasets.catalog import CATALOG, Counts
from slsr.datasets.collection import DISTRACTOR, JUNK, Entry, counted
from slsr.datasets.facts import describe, own_image_problem, summarize
from slsr.datasets.inspection import Inspection, inspect_collection
from slsr.datasets.opening import open_collection, recognize
from slsr.datasets.soundness import find_problems
from slsr.errors import InputError
from slsr.images.listing import is_other
from slsr.params.dataset import PUBLISHED, DatasetVariant
from slsr.sample import README_TITLE

BAR = 40
BINS = 8


@dataclass(frozen=True)
class Survey:
    """What is in an archive.

    Attributes
    ----------
    facts
        The facts of facts.json if no image is held out for validation.
    images_per_identity
        The number of images of every training person, and of every person in the gallery.
    problems
        What would end `prepare`, one sentence each.
    unreadable
        Images that cannot be decoded, with the reason.
    sources
        The names in the archive of the images that are used.
    drawn
        Whether `slsr sample` drew the archive.
    """

    path: Path
    variant: DatasetVariant
    facts: Mapping[str, Any]
    images_per_identity: Mapping[str, Sequence[int]]
    problems: Sequence[str]
    unreadable: Mapping[str, str]
    sources: Sequence[str]
    drawn: bool = False

    @property
    def published(self) -> Mapping[str, Counts]:
        """The published counts of each part of the split; empty if there are none, or if the archive is drawn."""
        counts = CATALOG[self.variant.name].published.get((self.variant.protocol, self.variant.boxes), {})
        return {} if self.drawn else counts

    def differences(self) -> dict[str, list[str]]:
        """List, for each part with published counts, the counts that differ."""
        return {split: _differences(self.facts["splits"][split], counts) for split, counts in self.published.items()}

    def is_published(self) -> bool:
        """Say whether counts are published for this split, and all of them agree."""
        return bool(self.published) and not any(self.differences().values())


def survey(path: Path, variant: DatasetVariant, scratch: Path, halves: Path | None = None) -> Survey:
    """Read and decode every image of an archive.

    Parameters
    ----------
    scratch
        An existing folder for temporary files, which are removed afterwards.
    halves
        As for `open_collection`.

    Raises
    ------
    InputError
        The archive cannot be read at all, or is not this data set. Problems of single images or of the split are in
        the result instead.
    """
    with open_collection(path, variant, scratch, halves) as collection:
        inspections, unreadable = inspect_collection(collection)
        kept = collection.without(unreadable)
        arrangement = arrange(kept, None, "none", 0)
        facts = describe(kept, arrangement, _by_table(arrangement, inspections), unreadable)
        problems = find_problems(kept)
        if problem := own_image_problem(facts):
            problems.append(problem)
    people = {name: _images_per_identity(arrangement.tables[name]) for name in ("train", "gallery")}
    sources = [entry.source for entry in collection.entries]
    return Survey(path, variant, facts, people, problems, unreadable, sources, is_drawn(path, variant))


def is_drawn(path: Path, variant: DatasetVariant) -> bool:
    """Say whether `slsr sample` drew an archive, by the readme in it."""
    if variant.name != "market1501":
        return False
    with open_archive(path) as archive:
        readmes = [name for name in archive.sizes if name.endswith("readme.txt")]
        return any(archive.read(name).startswith(README_TITLE) for name in readmes)


def render_list(data: Path, used: str | None) -> str:
    """List the data sets that can be read, and the archives in a folder; params.yaml names the archive `used`."""
    lines = ["Data sets that can be read:"]
    for name, known in CATALOG.items():
        lines.append(f"  {name:11} {known.title:34} {known.archive}".rstrip())
        if known.remark:
            lines.append(f"  {'':11} {known.remark}")
    lines += [
        f"The published ones ({', '.join(PUBLISHED)}) show real people and are for research only:",
        "they stay in data/, and `dvc push` uploads them to no remote.",
        "",
    ]
    archives = sorted(path for path in data.glob("*") if not path.name.startswith(".")) if data.is_dir() else []
    lines.append(
        f"In {data}/ (* is the one that params.yaml names):"
        if archives
        else f"{data}/ is empty; `dvc pull data.dvc` fetches the sample."
    )
    for path in archives:
        size = f"{path.stat().st_size / 1e6:,.1f} MB" if path.is_file() else "folder"
        lines.append(f"{'*' if path.name == used else ' '} {path.name:34} {_recognized(path):34} {size}")
    return "\n".join(lines)


def _recognized(path: Path) -> str:
    try:
        variant = recognize(path)
        title = CATALOG[variant.name].title
        return f"drawn (layout of {title})" if is_drawn(path, variant) else title
    except InputError:
        return "not recognized"


def _by_table(arrangement: Arrangement, inspections: Mapping[Entry, Inspection]) -> dict[TableName, list[Inspection]]:
    return {name: [inspections[entry] for entry in arrangement.tables[name]] for name in TABLES}


def _images_per_identity(entries: Sequence[Entry]) -> list[int]:
    return list(Counter(entry.identity for entry in entries if entry.identity not in {JUNK, DISTRACTOR}).values())


def render_survey(found: Survey) -> str:
    """Write the survey as text for a terminal."""
    facts = found.facts
    lines = [
        f"{found.path}: {_title(found.variant, found.drawn)}",
        "",
        *_render_counts(facts["splits"]),
        "",
        *_render_differences(found),
        *_render_histogram("images per training identity", found.images_per_identity["train"]),
        *_render_histogram("images per identity in the gallery", found.images_per_identity["gallery"]),
        *_render_findings(facts),
        *(f"PROBLEM: {problem}" for problem in found.problems),
    ]
    if found.unreadable:
        count = counted(len(found.unreadable), "unreadable image")
        lines.append(f"PROBLEM: {count}; replace them, or set dataset.unreadable_images: skip:")
        lines += [f"  {reason}" for reason in list(found.unreadable.values())[:10]]
    return "\n".join(lines)


def _title(variant: DatasetVariant, drawn: bool) -> str:
    parts = [variant.protocol, variant.boxes, variant.split and f"split {variant.split}"]
    chosen = ", ".join(str(part) for part in parts if part)
    title = CATALOG[variant.name].title + (f" ({chosen})" if chosen else "")
    return f"drawn by `slsr sample`, in the layout of {title}" if drawn else title


def _render_counts(splits: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    columns = ("images", "identities", "cameras", "junk", "distractors")
    yield f"{'':12}" + "".join(f"{column:>12}" for column in (*columns, "height", "width"))
    for name in ("train", "query", "gallery", "multi_query"):
        counts = splits[name]
        cells = [f"{counts[column]:,}" for column in columns] + [_span(counts["height"]), _span(counts["width"])]
        yield f"{name:12}" + "".join(f"{cell:>12}" for cell in cells)


def _span(values: Mapping[str, float] | None) -> str:
    if values is None:
        return "-"
    return f"{values['min']}" if values["min"] == values["max"] else f"{values['min']}-{values['max']}"


def _differences(found: Mapping[str, int], published: Counts) -> list[str]:
    return [
        f"{key} {found[key]:,} instead of {expected:,}"
        for key, expected in vars(published).items()
        if expected is not None and found[key] != expected
    ]


def _render_differences(found: Survey) -> Iterator[str]:
    if found.published:
        yield f"compared with the published counts of {CATALOG[found.variant.name].title}:"
    for split, differences in found.differences().items():
        if differences:
            yield f"  ✗ {split}: {', '.join(differences)}"
        else:
            yield f"  ✓ {split}: {_render_published(found.published[split])}"
    if found.published:
        yield ""


def _render_published(counts: Counts) -> str:
    return ", ".join(f"{key} {value:,}" for key, value in vars(counts).items() if value)


def _render_histogram(title: str, values: Sequence[int]) -> Iterator[str]:
    """Draw a histogram of at most eight bars."""
    if not values:
        return
    low, high = min(values), max(values)
    width = -(-(high - low + 1) // BINS)
    bins = Counter((value - low) // width for value in values)
    yield f"{title}: {low} to {high}, mean {sum(values) / len(values):.1f}"
    for number in range((high - low) // width + 1):
        first = low + number * width
        label = f"{first}" if width == 1 else f"{first}-{min(first + width - 1, high)}"
        yield f"  {label:>9} {'█' * -(-BAR * bins[number] // max(bins.values()))} {bins[number]:,}"
    yield ""


def _render_findings(facts: Mapping[str, Any]) -> Iterator[str]:
    if not facts["duplicates"]["across_splits"]:
        yield "no image is in two parts of the split"
    yield from summarize(facts)
    if facts["evaluation"]["cameras"] == "unknown":
        yield "`prepare` refuses unknown cameras until dataset.cameras is unknown, and then marks every number"
    if other := {kind: count for kind, count in facts["ignored_files"].items() if is_other(kind)}:
        yield "other files, not used: " + ", ".join(f"{count:,} {kind}" for kind, count in other.items())
