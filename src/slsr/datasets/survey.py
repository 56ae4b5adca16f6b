"""What `prepare` would find in an archive, without writing anything, beside what is published about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from slsr.datasets.arrangement import TABLES, Arrangement, Table, arrange
from slsr.datasets.catalog import CATALOG, Counts
from slsr.datasets.collection import DISTRACTOR, JUNK, Collection, Entry, counted
from slsr.datasets.facts import describe, summarize
from slsr.datasets.inspection import Inspection, Unreadable, inspect_images
from slsr.datasets.opening import Choice, open_collection, recognize
from slsr.datasets.soundness import find_problems
from slsr.errors import InputError

BAR = 40
BINS = 8


@dataclass(frozen=True)
class Survey:
    """What is in an archive.

    Attributes
    ----------
    facts
        As facts.json has them, with no image held out for validation.
    images_per_identity
        Of every training person, and of every person in the gallery.
    problems
        What would end `prepare`, a sentence each.
    unreadable
        Images that do not decode, with the reason.
    sources
        Where the archive keeps the images that are used.
    """

    path: Path
    choice: Choice
    facts: Mapping[str, Any]
    images_per_identity: Mapping[str, Sequence[int]]
    problems: Sequence[str]
    unreadable: Mapping[str, str]
    sources: Sequence[str]

    def differences(self) -> dict[str, list[str]]:
        """Of each part with published counts, where these are others."""
        return {split: _differences(self, split, counts) for split, counts in _published(self.choice).items()}

    def is_published(self) -> bool:
        """Whether counts are published for this split, and all are met."""
        return bool(self.differences()) and not any(self.differences().values())


def survey(path: Path, choice: Choice, scratch: Path) -> Survey:
    """Read and decode every image of an archive.

    Parameters
    ----------
    scratch
        An existing folder for what has to be unpacked; left as it was.

    Raises
    ------
    InputError
        The archive cannot be read at all, or is no such data set. What is wrong with single images or with the split
        is in the result instead.
    """
    with open_collection(path, choice, scratch) as collection:
        inspections, unreadable = _inspect(collection)
        kept = replace(collection, entries=[entry for entry in collection.entries if entry.source not in unreadable])
        arrangement = arrange(kept, None, "none", 0)
        facts = describe(kept, arrangement, _by_table(arrangement, inspections), unreadable)
        problems = find_problems(kept)
    people = {name: _images_per_identity(arrangement.tables[name]) for name in ("train", "gallery")}
    return Survey(path, choice, facts, people, problems, unreadable, [entry.source for entry in collection.entries])


def render_list(data: Path, used: str | None) -> str:
    """The data sets that can be read, and the archives in a folder; `used` is the one that params.yaml names."""
    lines = ["Data sets that can be read:"]
    for name, known in CATALOG.items():
        lines.append(f"  {name:11} {known.title:34} {known.archive}")
        if known.remark:
            lines.append(f"  {'':11} {known.remark}")
    archives = sorted(path for path in data.glob("*") if not path.name.startswith(".")) if data.is_dir() else []
    lines += ["", f"In {data}/ ({'* is what params.yaml names' if archives else 'nothing yet: `dvc pull data.dvc`'}):"]
    for path in archives:
        size = f"{path.stat().st_size / 1e6:,.1f} MB" if path.is_file() else "folder"
        lines.append(f"{'*' if path.name == used else ' '} {path.name:34} {_recognized(path):34} {size}")
    return "\n".join(lines)


def _recognized(path: Path) -> str:
    try:
        return f"packed as {CATALOG[recognize(path).name].title}"
    except InputError:
        return "not recognized"


def _inspect(collection: Collection) -> tuple[dict[Entry, Inspection], dict[str, str]]:
    found: dict[Entry, Inspection] = {}
    unreadable: dict[str, str] = {}
    results = inspect_images(collection.entries, collection.read)
    for entry, _, result in tqdm(results, "check", len(collection.entries), unit="image", disable=None):
        if isinstance(result, Unreadable):
            unreadable[entry.source] = result.reason
        else:
            found[entry] = result
    return found, unreadable


def _by_table(arrangement: Arrangement, inspections: Mapping[Entry, Inspection]) -> dict[Table, list[Inspection]]:
    return {name: [inspections[entry] for entry in arrangement.tables[name]] for name in TABLES}


def _images_per_identity(entries: Sequence[Entry]) -> list[int]:
    return list(Counter(entry.identity for entry in entries if entry.identity not in {JUNK, DISTRACTOR}).values())


def render_survey(found: Survey) -> str:
    """The survey as text for a terminal."""
    facts = found.facts
    lines = [
        f"{found.path}: {_title(found.choice)}",
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
        lines.append(f"PROBLEM: {count}; set dataset.unreadable_images: skip, or mend:")
        lines += [f"  {reason}" for reason in list(found.unreadable.values())[:10]]
    return "\n".join(lines)


def _title(choice: Choice) -> str:
    parts = [choice.protocol, choice.boxes, choice.split and f"split {choice.split}"]
    chosen = ", ".join(str(part) for part in parts if part)
    return CATALOG[choice.name].title + (f" ({chosen})" if chosen else "")


def _render_counts(splits: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    columns = ("images", "identities", "cameras", "junk", "distractors")
    yield f"{'':12}" + "".join(f"{column:>13}" for column in (*columns, "height", "width"))
    for name in ("train", "query", "gallery", "multi_query"):
        counts = splits[name]
        cells = [f"{counts[column]:,}" for column in columns] + [_span(counts["height"]), _span(counts["width"])]
        yield f"{name:12}" + "".join(f"{cell:>13}" for cell in cells)


def _span(values: Mapping[str, float] | None) -> str:
    if values is None:
        return "-"
    return f"{values['min']}" if values["min"] == values["max"] else f"{values['min']}-{values['max']}"


def _published(choice: Choice) -> Mapping[str, Counts]:
    return CATALOG[choice.name].published.get((choice.protocol, choice.boxes), {})


def _differences(found: Survey, split: str, counts: Counts) -> list[str]:
    splits = found.facts["splits"][split]
    return [
        f"{key} {splits[key]:,} instead of {expected:,}"
        for key, expected in vars(counts).items()
        if expected is not None and splits[key] != expected
    ]


def _render_differences(found: Survey) -> Iterator[str]:
    published = _published(found.choice)
    if published:
        yield f"beside the published counts of {CATALOG[found.choice.name].title}:"
    for split, differences in found.differences().items():
        if differences:
            yield f"  ✗ {split}: {', '.join(differences)}"
        else:
            yield f"  ✓ {split}: {_render_published(published[split])}"
    if published:
        yield ""


def _render_published(counts: Counts) -> str:
    return ", ".join(f"{key} {value:,}" for key, value in vars(counts).items() if value)


def _render_histogram(title: str, values: Sequence[int]) -> Iterator[str]:
    """Eight bars, or one for each value where there are no more."""
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
        yield "no picture on two sides of the split"
    yield from summarize(facts)
