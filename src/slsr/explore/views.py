"""What the pages show: options read from an address, and cards made of rankings and tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from slsr.errors import InputError
from slsr.explore.exhibit import Exhibit, Model, Query, Shelf
from slsr.explore.image_table import ImageTable, Rows
from slsr.explore.orders import PRECISION, TABLE
from slsr.explore.rankings import RankedGallery, cosine_similarity, rank_gallery
from slsr.retrieval.matching import JUNK
from slsr.retrieval.one_query import distances_to_gallery

DEPTHS = (20, 50, 100, 200)
ON_A_PAGE = 60
OFF = "off"
MAPS = {OFF: "off", "activation": "activation", "similarity": "similarity"}
WAYS = {"plain": "plain", "reranked": "re-ranked"}
SCALES = {"plain": "cosine similarity, higher is nearer", "reranked": "re-ranked distance, lower is nearer"}
FIRST = 10
LISTED_RANKS = 15
UNJUDGED = {
    "t": "The people of the training images are not in the gallery, so no match is right or wrong.",
    "x": "A generated image shows no real person, so no match is right or wrong.",
    "u": "Your picture has no label, so no match is marked as right or wrong.",
}

Verdict = Literal["right", "wrong", "junk"]


@dataclass(frozen=True, eq=False)
class Ranker:
    """One way to rank: a model, plain or re-ranked; its key is used in addresses."""

    key: str
    model: Model
    number: int
    way: str

    @property
    def title(self) -> str:
        """The heading."""
        return f"{self.model.name}, {WAYS[self.way]}"


def all_rankers(exhibit: Exhibit) -> dict[str, Ranker]:
    """Return every model, plain and re-ranked, by key."""
    return {
        f"{number}-{way}": Ranker(f"{number}-{way}", model, number, way)
        for number, model in enumerate(exhibit.models)
        for way in WAYS
    }


@dataclass(frozen=True, eq=False)
class Options:
    """What a search page is asked to show; `order` and `by` are those of the list of queries that it came from."""

    query: str
    left: Ranker
    right: Ranker | None
    maps: str
    depth: int
    order: str = TABLE
    by: str = PRECISION

    def address(self, **differences: Any) -> dict[str, Any]:
        """Return the arguments of an address, with some of them replaced."""
        given = {
            "query": self.query,
            "left": self.left.key,
            "right": self.right.key if self.right else OFF,
            "maps": self.maps,
            "depth": self.depth,
        }
        if self.order != TABLE:
            given |= {"order": self.order, "by": self.by}
        return given | differences


def read_options(exhibit: Exhibit, arguments: Mapping[str, str]) -> Options:
    """Read the options in an address; a missing one gets a default.

    Raises
    ------
    InputError
        A value is unknown.
    """
    rankers = all_rankers(exhibit)
    left = _pick(rankers, arguments.get("left", next(iter(rankers))), "left")
    other = arguments.get("right", f"{left.number}-reranked" if left.way == "plain" else OFF)
    right = None if other == OFF else _pick(rankers, other, "right")
    maps = arguments.get("maps", OFF)
    _pick(MAPS, maps, "maps")
    depths = {str(depth): depth for depth in DEPTHS}
    depth = _pick(depths, arguments.get("depth", str(DEPTHS[0])), "depth")
    order, by = arguments.get("order", TABLE), arguments.get("by", PRECISION)
    return Options(arguments.get("query", ""), left, right, maps, depth, order, by)


def _pick(among: Mapping[str, Any], key: str, name: str) -> Any:
    if key not in among:
        raise InputError(f"{name}={key[:40]}: choose one of {', '.join(among)}")
    return among[key]


@dataclass(frozen=True)
class Card:
    """An image with its facts; `verdict` is None if there are no labels to judge by."""

    key: str
    row: int
    name: str
    identity: int | None
    camera: int | None
    rank: int | None = None
    verdict: Verdict | None = None
    score: str | None = None
    other_rank: int | None = None
    note: str | None = None
    nearest: NearestCard | None = None


@dataclass(frozen=True)
class NearestCard:
    """The training image that is nearest to a generated one."""

    key: str
    name: str
    identity: int | None
    similarity: float


@dataclass(frozen=True, eq=False)
class RankedPanel:
    """The gallery as one ranker sorts it, and what to say about it in a sentence."""

    side: str
    ranker: Ranker
    cards: Sequence[Card]
    summary: str
    ranks: str
    scale: str
    left_out: str | None


def panels(exhibit: Exhibit, query: Query, options: Options) -> list[RankedPanel]:
    """Rank the gallery once, or twice side by side, each card with its rank in the other ranking."""
    rankers = [ranker for ranker in (options.left, options.right) if ranker is not None]
    rankings = [ranked(exhibit, query, ranker) for ranker in rankers]
    found = []
    for place, (ranker, ranking) in enumerate(zip(rankers, rankings, strict=True)):
        other = _ranks(rankings[1 - place]) if len(rankings) == 2 else {}
        cards = _ranked_cards(exhibit, ranker, ranking, other, options.depth)
        side, scale = ("left", "right")[place], SCALES[ranker.way]
        found.append(
            RankedPanel(
                side, ranker, cards, summary_of(ranking, query.key), ranks_of(ranking), scale, left_out_of(ranking)
            )
        )
    return found


def ranked(exhibit: Exhibit, query: Query, ranker: Ranker) -> RankedGallery:
    """Rank the gallery for a query."""
    gallery = exhibit.shelves["g"].table
    model, known = ranker.model, query.shelf is not None and query.shelf.letter == "q"
    if ranker.way == "plain":
        distances = distances_to_gallery(query.features(model), model.gallery_features)
    elif known and query.row is not None:
        distances = model.reranker.of_query(query.row)
    else:
        distances = model.reranker.of_feature(query.features(model))
    itself = query.row if query.shelf is not None and query.shelf.letter == "g" else None
    return rank_gallery(distances, gallery.identities, gallery.cameras, query.identity, query.camera, itself)


def _ranks(ranking: RankedGallery) -> dict[int, int]:
    return {int(row): rank for rank, row in enumerate(ranking.rows, start=1)}


def _ranked_cards(
    exhibit: Exhibit, ranker: Ranker, ranking: RankedGallery, other: Mapping[int, int], depth: int
) -> list[Card]:
    gallery = exhibit.shelves["g"].table
    distances = ranking.distances[:depth]
    scores = cosine_similarity(distances) if ranker.way == "plain" else distances
    cards = []
    for place, row in enumerate(ranking.rows[:depth].tolist()):
        identity, camera = labels_at(gallery, row)
        verdict: Verdict | None = None
        if ranking.right is not None:
            verdict = "right" if ranking.right[place] else "wrong"
        elif identity == JUNK:
            verdict = "junk"
        card = Card(f"g{row}", row, gallery.names[row], identity, camera)
        score = f"{scores[place]:.3f}"
        cards.append(replace(card, rank=place + 1, verdict=verdict, score=score, other_rank=other.get(row)))
    return cards


def summary_of(ranking: RankedGallery, key: str) -> str:
    """Say how good the ranking for the query of this key is, or why that cannot be said."""
    if ranking.right is None:
        return UNJUDGED.get(key[:1], "No labels to judge by.")
    ranks = ranking.ranks
    if not len(ranks):
        return "The gallery holds no right match for this query."
    first = int((ranks <= FIRST).sum())
    return (
        f"First right match at rank {ranks[0]:,}; {first} right in the first {FIRST}, {len(ranks):,} in all; "
        f"average precision {ranking.average_precision:.3f}."
    )


def ranks_of(ranking: RankedGallery) -> str:
    """List the ranks of the right matches, at most `LISTED_RANKS` of them; an empty text without any."""
    ranks = [f"{rank:,}" for rank in ranking.ranks.tolist()]
    if len(ranks) <= LISTED_RANKS:
        return ", ".join(ranks)
    return f"{', '.join(ranks[:LISTED_RANKS])} and {len(ranks) - LISTED_RANKS:,} more, the last at {ranks[-1]}"


def left_out_of(ranking: RankedGallery) -> str | None:
    """Say what the protocol leaves out of this ranking."""
    junk, own = ranking.left_out
    parts = []
    if own:
        parts.append(f"{own:,} of this person from the query's own camera")
    if junk:
        parts.append(f"{junk:,} junk (identity -1)")
    return f"Left out by the protocol: {' and '.join(parts)}." if parts else None


def labels_at(table: ImageTable, row: int) -> tuple[int | None, int | None]:
    """Return identity and camera of a row; None if the table does not have them."""
    if table.identities is None or table.cameras is None:
        return None, None
    return int(table.identities[row]), int(table.cameras[row])


@dataclass(frozen=True, eq=False)
class Leaf:
    """One page of a longer list: its cards, its number, the number of pages, and the length of the list."""

    cards: Sequence[Card]
    number: int
    pages: int
    found: int


def leaf_through(shelf: Shelf, rows: Rows, number: int, note: Callable[[int], str | None] = lambda row: None) -> Leaf:
    """Make the cards of one page of rows, each with a note; `number` counts from 1 and is brought into range."""
    pages = max(1, -(-len(rows) // ON_A_PAGE))
    number = min(max(number, 1), pages)
    cards = [
        Card(f"{shelf.letter}{row}", row, shelf.table.names[row], *labels_at(shelf.table, row), note=note(row))
        for row in rows[(number - 1) * ON_A_PAGE : number * ON_A_PAGE].tolist()
    ]
    return Leaf(cards, number, pages, len(rows))


def with_nearest(exhibit: Exhibit, leaf: Leaf) -> Leaf:
    """Add to the cards of generated images their nearest training images, if they can be found."""
    if exhibit.nearest is None:
        return leaf
    train = exhibit.shelves["t"].table
    cards = []
    for card, found in zip(leaf.cards, exhibit.nearest.of([card.row for card in leaf.cards]), strict=True):
        if found is None:
            cards.append(card)
            continue
        row, similarity = found
        nearest = NearestCard(f"t{row}", train.names[row], labels_at(train, row)[0], similarity)
        cards.append(replace(card, nearest=nearest))
    return replace(leaf, cards=cards)


def sizes_of(clusters: Rows) -> dict[int, int]:
    """Count the images of each cluster, ascending."""
    return {int(number): int(count) for number, count in zip(*np.unique(clusters, return_counts=True), strict=True)}


def sparse_label_text(table: ImageTable, row: int, identities: Mapping[int, int], shown: int = 4) -> str:
    """Write the sparse label of a generated image: the people in it, the heaviest first.

    Parameters
    ----------
    identities : those of the training labels; labels that are not in it are shown as they are
    """
    pairs = sorted(table.sparse_label(row), key=lambda pair: -pair[1])
    if not pairs:
        return ""
    known = all(label in identities for label, _ in pairs)
    pairs = [(identities[label], weight) for label, weight in pairs] if known else pairs
    even = len({weight for _, weight in pairs}) == 1
    named = [f"{label}" if even else f"{label}: {weight:.2f}" for label, weight in pairs[:shown]]
    rest = f" and {len(pairs) - shown} more" if len(pairs) > shown else ""
    each = f", {pairs[0][1]:.3f} each" if even else ""
    kind = "id" if known else "label"
    return f"{kind}{'s' if len(pairs) > 1 else ''} {', '.join(named)}{rest}{each}"


def heading_of(query: Query) -> str:
    """Return the heading of a ranking: what kind of image the query is, and who is on it."""
    kinds = {"q": "Query", "g": "Gallery image", "t": "Training image", "x": "Generated image", "u": "Your picture"}
    kind = kinds[query.key[0]]
    if query.identity is None:
        return kind
    return f"{kind}: identity {query.identity}, camera {query.camera}"


def page_of(row: int) -> int:
    """Return the page of a table, counted from 1, that shows this row."""
    return row // ON_A_PAGE + 1


def whole_number(arguments: Mapping[str, str], name: str, default: int | None = None) -> int | None:
    """Read a whole number in an address; `default` if it is missing or empty.

    Raises
    ------
    InputError
        It is not a whole number, or has more than nine digits.
    """
    text = arguments.get(name, "").strip()
    if not text:
        return default
    if not text.removeprefix("-").isdecimal() or len(text) > 10:
        raise InputError(f"{name}={text[:40]}: give a whole number")
    return int(text)
