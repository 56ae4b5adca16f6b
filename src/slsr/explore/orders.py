"""The orders of the queries: as in the table, the hardest first, or where one model differs most from another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from slsr.errors import InputError
from slsr.explore.exhibit import Exhibit, Model
from slsr.explore.image_table import Rows

TABLE = "table"
MEASURED_BY = {"precision": "average precision", "rank": "rank of the first right match"}


@dataclass(frozen=True)
class Order:
    """An order by one model, or by the difference of `model` to `other`; both are numbers of models of the page."""

    key: str
    title: str
    model: int
    other: int | None = None
    losses: bool = False


@dataclass(frozen=True, eq=False)
class OrderedRows:
    """Query rows in order, with a note on each, and the rankings to compare them by: arguments of a search address."""

    rows: Rows
    notes: dict[int, str] = field(default_factory=dict)
    rankings: dict[str, str] = field(default_factory=dict)
    explained: str = ""


@dataclass(frozen=True)
class Comparison:
    """On how many queries a model has a higher and a lower average precision than another, and the orders with them."""

    better: int
    worse: int
    gains: str
    losses: str


def orders_by_group(models: Sequence[Model]) -> dict[str, list[Order]]:
    """List the orders that measured models allow, below the headings of a menu."""
    measured = [number for number, model in enumerate(models) if model.measures is not None]
    hardest = [Order(f"hardest-{number}", f"hardest for {models[number].name}", number) for number in measured]
    groups = {"Hardest first": hardest} if hardest else {}
    for one, other in combinations(measured, 2):
        first, second = models[one].name, models[other].name
        groups[f"Largest gain or loss first: {first} against {second}"] = [
            Order(f"gain-{one}-{other}", f"gain of {first} over {second}", one, other),
            Order(f"loss-{one}-{other}", f"loss of {first} to {second}", one, other, losses=True),
        ]
    return groups


def in_order(exhibit: Exhibit, rows: Rows, key: str, by: str) -> OrderedRows:
    """Sort query rows as in the table, or by how good rankings are; queries without a right match come last.

    Parameters
    ----------
    key : `table`, or the key of an order of `orders_by_group`
    by : a key of `MEASURED_BY`

    Raises
    ------
    InputError
        The key, or `by`, is unknown.
    """
    if by not in MEASURED_BY:
        raise InputError(f"by={by[:40]}: choose one of {', '.join(MEASURED_BY)}")
    if key == TABLE:
        return OrderedRows(rows)
    known = {order.key: order for group in orders_by_group(exhibit.models).values() for order in group}
    order = known.get(key)
    if order is None:
        raise InputError(f"order={key[:40]}: choose table, or an order of the menu of this page")
    own = _measured(exhibit.models[order.model], by)
    if order.other is None:
        return OrderedRows(
            _sorted(rows, _goodness(own, by)), _notes(rows, lambda row: _value(own[row], by)), _beside(order)
        )
    other = _measured(exhibit.models[order.other], by)
    gain = _goodness(own, by) - _goodness(other, by)
    return OrderedRows(
        _sorted(rows, gain if order.losses else -gain),
        _notes(rows, lambda row: _change(other[row], own[row], by)),
        _beside(order),
        f"{MEASURED_BY[by]}: {exhibit.models[order.other].name} → {exhibit.models[order.model].name}",
    )


def count_against_baseline(exhibit: Exhibit) -> dict[str, Comparison]:
    """Count on how many queries each model is better and worse than the one that all are compared with, by its name."""
    baseline = exhibit.baseline
    if baseline is None or baseline.measures is None:
        return {}
    models = list(exhibit.models)
    return {
        model.name: _compare(models, model, baseline)
        for model in models
        if model is not baseline and model.measures is not None
    }


def _compare(models: Sequence[Model], model: Model, other: Model) -> Comparison:
    difference = _measured(model, "precision") - _measured(other, "precision")
    one, two = models.index(model), models.index(other)
    gains, losses = ("gain", "loss") if one < two else ("loss", "gain")
    pair = f"{min(one, two)}-{max(one, two)}"
    return Comparison(int((difference > 0).sum()), int((difference < 0).sum()), f"{gains}-{pair}", f"{losses}-{pair}")


def _measured(model: Model, by: str) -> NDArray[np.float64]:
    measures: NDArray[np.float64] = np.empty((0, 2)) if model.measures is None else model.measures
    return measures[:, 1 if by == "precision" else 0]


def _goodness(values: NDArray[np.float64], by: str) -> NDArray[np.float64]:
    return values if by == "precision" else -values


def _sorted(rows: Rows, keys: NDArray[np.float64]) -> Rows:
    return rows[np.argsort(np.where(np.isnan(keys), np.inf, keys)[rows], kind="stable")]


def _notes(rows: Rows, write: Callable[[int], str]) -> dict[int, str]:
    return {row: write(row) for row in rows.tolist()}


def _value(value: float, by: str) -> str:
    if np.isnan(value):
        return "no right match"
    return f"AP {value:.3f}" if by == "precision" else f"rank {value:,.0f}"


def _change(before: float, after: float, by: str) -> str:
    if np.isnan(before) or np.isnan(after):
        return "no right match"
    if by == "precision":
        return f"{after - before:+.2f} {before:.2f} → {after:.2f}"
    return f"rank {before:,.0f} → {after:,.0f}"


def _beside(order: Order) -> dict[str, str]:
    """Return which rankings a query of this order is opened with: the plain ones of the models it is about."""
    left = {"left": f"{order.model}-plain"}
    return left if order.other is None else left | {"right": f"{order.other}-plain"}
