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
PRECISION = "precision"
MEASURED_BY = {PRECISION: "average precision", "rank": "rank of the first right match"}


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
    """Query rows in order; `note` says of a row why it is where it is.

    `link` are arguments of a search address: the rankings that show the difference, and the order itself.
    """

    rows: Rows
    note: Callable[[int], str | None] = lambda row: None
    link: dict[str, str] = field(default_factory=dict)
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
            _sorted(rows, _goodness(own, by)), lambda row: _value(own[row], by), _link(order, by), MEASURED_BY[by]
        )
    other = _measured(exhibit.models[order.other], by)
    gain = _goodness(own, by) - _goodness(other, by)
    return OrderedRows(
        _sorted(rows, gain if order.losses else -gain),
        lambda row: _change(other[row], own[row], by),
        _link(order, by),
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
    difference = _measured(model, PRECISION) - _measured(other, PRECISION)
    one, two = models.index(model), models.index(other)
    gains, losses = ("gain", "loss") if one < two else ("loss", "gain")
    pair = f"{min(one, two)}-{max(one, two)}"
    return Comparison(int((difference > 0).sum()), int((difference < 0).sum()), f"{gains}-{pair}", f"{losses}-{pair}")


def _measured(model: Model, by: str) -> NDArray[np.float64]:
    measures: NDArray[np.float64] = np.empty((0, 2)) if model.measures is None else model.measures
    return measures[:, 1 if by == PRECISION else 0]


def _goodness(values: NDArray[np.float64], by: str) -> NDArray[np.float64]:
    return values if by == PRECISION else -values


def _sorted(rows: Rows, keys: NDArray[np.float64]) -> Rows:
    return rows[np.argsort(np.where(np.isnan(keys), np.inf, keys)[rows], kind="stable")]


def _value(value: float, by: str) -> str:
    if np.isnan(value):
        return "no right match"
    return f"AP {value:.3f}" if by == PRECISION else f"rank {value:,.0f}"


def _change(before: float, after: float, by: str) -> str:
    if np.isnan(before) or np.isnan(after):
        return "no right match"
    if by == PRECISION:
        return f"{after - before:+.2f}\n{before:.2f}→{after:.2f}"
    return f"rank\n{before:,.0f} → {after:,.0f}"


def _link(order: Order, by: str) -> dict[str, str]:
    """Return how a query of this order is opened: with the plain rankings of the models that the order is about."""
    rankings = {"left": f"{order.model}-plain"}
    if order.other is not None:
        rankings["right"] = f"{order.other}-plain"
    return rankings | {"order": order.key, "by": by}
