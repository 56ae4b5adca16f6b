"""What stands on the page: choices read from an address, and cards made of rankings and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from slsr.errors import InputError
from slsr.explore.exhibit import Exhibit, Model, Query, Shelf
from slsr.explore.image_table import ImageTable, Rows
from slsr.explore.rankings import Ranking, cosine_similarity, rank_gallery
from slsr.retrieval.matching import JUNK
from slsr.retrieval.one_query import distances_to_gallery

DEPTHS = (20, 50, 100, 200)
ON_A_PAGE = 60
MAPS = {"none": "none", "activation": "activation", "similarity": "similarity"}
WAYS = {"plain": "plain", "reranked": "re-ranked"}
FIRST = 10


@dataclass(frozen=True, eq=False)
class View:
    """One way to rank: a model, plainly or re-ranked; its key stands in addresses."""

    key: str
    model: Model
    number: int
    way: str

    @property
    def title(self) -> str:
        """As a heading."""
        return f"{self.model.name}, {WAYS[self.way]}"


def all_views(exhibit: Exhibit) -> dict[str, View]:
    """Every model plainly and re-ranked, by key."""
    views = [View(f"{number}-{way}", model, number, way) for number, model in enumerate(exhibit.models) for way in WAYS]
    return {view.key: view for view in views}


@dataclass(frozen=True, eq=False)
class Choice:
    """What a search page is asked to show."""

    query: str
    left: View
    right: View | None
    maps: str
    depth: int

    def address(self, **differences: Any) -> dict[str, Any]:
        """The address's arguments, some of them other ones."""
        given = {
            "query": self.query,
            "left": self.left.key,
            "right": self.right.key if self.right else "none",
            "maps": self.maps,
            "depth": self.depth,
        }
        return given | differences


def read_choice(exhibit: Exhibit, arguments: Mapping[str, str]) -> Choice:
    """The choice in an address; what is missing gets a default.

    Raises
    ------
    InputError
        A value is none of those there are.
    """
    views = all_views(exhibit)
    left = _pick(views, arguments.get("left", next(iter(views))), "left")
    other = arguments.get("right", f"{left.number}-reranked" if left.way == "plain" else "none")
    right = None if other == "none" else _pick(views, other, "right")
    maps = arguments.get("maps", "none")
    _pick(MAPS, maps, "maps")
    depths = {str(depth): depth for depth in DEPTHS}
    depth = _pick(depths, arguments.get("depth", str(DEPTHS[0])), "depth")
    return Choice(arguments.get("query", ""), left, right, maps, depth)


def _pick(among: Mapping[str, Any], key: str, name: str) -> Any:
    if key not in among:
        raise InputError(f"{name}={key[:40]}: choose one of {', '.join(among)}")
    return among[key]


@dataclass(frozen=True)
class Card:
    """One image under its facts; `verdict` is None where there is nothing to judge by."""

    key: str
    row: int
    name: str
    rank: int | None = None
    verdict: Literal["right", "wrong", "junk"] | None = None
    score: str | None = None
    other_rank: int | None = None
    identity: int | None = None
    camera: int | None = None
    note: str | None = None


@dataclass(frozen=True, eq=False)
class Panel:
    """The gallery as one view ranks it, and what to say about it in a sentence."""

    side: str
    view: View
    cards: Sequence[Card]
    summary: str
    scale: str
    left_out: str | None


def panels(exhibit: Exhibit, query: Query, choice: Choice) -> list[Panel]:
    """One ranking, or two side by side, each card with its rank in the other one."""
    views = [view for view in (choice.left, choice.right) if view is not None]
    rankings = [ranked(exhibit, query, view) for view in views]
    found = []
    for place, (view, ranking) in enumerate(zip(views, rankings, strict=True)):
        other = _places(rankings[1 - place]) if len(rankings) == 2 else None
        cards = _ranked_cards(exhibit, view, ranking, other, choice.depth)
        scale = "cosine similarity, higher is nearer" if view.way == "plain" else "re-ranked distance, lower is nearer"
        found.append(Panel(("left", "right")[place], view, cards, summary_of(ranking), scale, left_out_of(ranking)))
    return found


def ranked(exhibit: Exhibit, query: Query, view: View) -> Ranking:
    """The gallery, ranked for a query."""
    gallery = exhibit.shelves["g"].table
    model, known = view.model, query.shelf is not None and query.shelf.letter == "q"
    if view.way == "plain":
        distances = distances_to_gallery(query.features(model), model.gallery_features)
    elif known and query.row is not None:
        distances = model.reranker.of_query(query.row)
    else:
        distances = model.reranker.of_feature(query.features(model))
    itself = query.row if query.shelf is not None and query.shelf.letter == "g" else None
    return rank_gallery(distances, gallery.identities, gallery.cameras, query.identity, query.camera, itself)


def _places(ranking: Ranking) -> dict[int, int]:
    return {int(row): rank for rank, row in enumerate(ranking.rows, start=1)}


def _ranked_cards(
    exhibit: Exhibit, view: View, ranking: Ranking, other: Mapping[int, int] | None, depth: int
) -> list[Card]:
    gallery = exhibit.shelves["g"].table
    scores = cosine_similarity(ranking.distances[:depth]) if view.way == "plain" else ranking.distances[:depth]
    cards = []
    for place, row in enumerate(ranking.rows[:depth].tolist()):
        identity, camera = labels_at(gallery, row)
        verdict: Literal["right", "wrong", "junk"] | None = None
        if ranking.right is not None:
            verdict = "right" if ranking.right[place] else "wrong"
        elif identity == JUNK:
            verdict = "junk"
        cards.append(
            Card(
                f"g{row}",
                row,
                gallery.names[row],
                place + 1,
                verdict,
                f"{scores[place]:.3f}",
                other.get(row) if other is not None else None,
                identity,
                camera,
            )
        )
    return cards


def summary_of(ranking: Ranking) -> str:
    """How well a ranking went, or that nothing tells."""
    if ranking.right is None:
        return "No labels to judge by."
    ranks = ranking.ranks
    if not len(ranks):
        return "The gallery holds no right match for this query."
    first = int((ranks <= FIRST).sum())
    return (
        f"First right match at rank {ranks[0]:,}; {first} right in the first {FIRST}, {len(ranks):,} in all; "
        f"average precision {ranking.average_precision:.3f}."
    )


def left_out_of(ranking: Ranking) -> str | None:
    """What the protocol leaves out of this ranking, in words."""
    junk, own = ranking.left_out
    parts = []
    if own:
        parts.append(f"{own:,} of this person from the query's own camera")
    if junk:
        parts.append(f"{junk:,} junk (identity -1)")
    return f"Left out by the protocol: {' and '.join(parts)}." if parts else None


def labels_at(table: ImageTable, row: int) -> tuple[int | None, int | None]:
    """Identity and camera of a row, where the table has them."""
    if table.identities is None or table.cameras is None:
        return None, None
    return int(table.identities[row]), int(table.cameras[row])


@dataclass(frozen=True, eq=False)
class Leaf:
    """A page of a longer list: its cards, and where it stands."""

    cards: Sequence[Card]
    number: int
    pages: int
    found: int


def leaf_through(
    shelf: Shelf, rows: Rows, number: int, notes: Mapping[int, str] | None = None, note: Any = None
) -> Leaf:
    """The cards of one page of rows, `number` counted from 1 and brought into range."""
    pages = max(1, -(-len(rows) // ON_A_PAGE))
    number = min(max(number, 1), pages)
    cards = []
    for row in rows[(number - 1) * ON_A_PAGE : number * ON_A_PAGE].tolist():
        identity, camera = labels_at(shelf.table, row)
        text = notes.get(row) if notes is not None else note(row) if note is not None else None
        cards.append(
            Card(f"{shelf.letter}{row}", row, shelf.table.names[row], identity=identity, camera=camera, note=text)
        )
    return Leaf(cards, number, pages, len(rows))


def in_order(exhibit: Exhibit, rows: Rows, order: str) -> tuple[Rows, dict[int, str]]:
    """Query rows as in the table, or the hardest for one model first, with a note on each.

    Raises
    ------
    InputError
        `order` is neither `table` nor the number of a model that has measures.
    """
    if order == "table":
        return rows, {}
    numbered = {str(number): model.measures for number, model in enumerate(exhibit.models)}
    measures = numbered.get(order)
    if measures is None:
        raise InputError(f"order={order[:40]}: choose table, or the number of a model on this page")
    precision = measures[rows, 1]
    ordered = rows[np.argsort(np.where(np.isnan(precision), np.inf, precision), kind="stable")]
    notes = {
        int(row): "no right match" if np.isnan(measures[row, 1]) else f"AP {measures[row, 1]:.3f}" for row in ordered
    }
    return ordered, notes


def sparse_label_text(table: ImageTable, row: int, shown: int = 4) -> str:
    """The sparse label of a generated image: the training labels that share it, the heaviest first."""
    pairs = sorted(table.sparse_label(row), key=lambda pair: -pair[1])
    if not pairs:
        return ""
    even = len({weight for _, weight in pairs}) == 1
    named = [f"{label}" if even else f"{label}: {weight:.2f}" for label, weight in pairs[:shown]]
    rest = f" and {len(pairs) - shown} more" if len(pairs) > shown else ""
    each = f", {pairs[0][1]:.3f} each" if even else ""
    return f"{'labels' if len(pairs) > 1 else 'label'} {', '.join(named)}{rest}{each}"


def whole_number(arguments: Mapping[str, str], name: str, default: int | None = None) -> int | None:
    """A whole number of an address; `default` where it is missing or empty.

    Raises
    ------
    InputError
        It is something else, or has more than nine digits.
    """
    text = arguments.get(name, "").strip()
    if not text:
        return default
    if not text.removeprefix("-").isdecimal() or len(text) > 10:
        raise InputError(f"{name}={text[:40]}: a whole number is needed")
    return int(text)
