"""Who is drawn: the lasting appearance of a person, from build to bag."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slsr.datasets.drawn.paint import Colour

CLOTH: dict[str, Colour] = {
    "white": (0.88, 0.87, 0.85),
    "black": (0.10, 0.10, 0.11),
    "grey": (0.47, 0.47, 0.48),
    "red": (0.72, 0.13, 0.14),
    "navy": (0.13, 0.17, 0.36),
    "sky": (0.42, 0.62, 0.83),
    "green": (0.16, 0.42, 0.24),
    "mustard": (0.82, 0.62, 0.16),
    "pink": (0.88, 0.52, 0.60),
    "purple": (0.42, 0.22, 0.50),
    "orange": (0.86, 0.42, 0.14),
    "beige": (0.74, 0.64, 0.48),
    "teal": (0.12, 0.46, 0.48),
    "brown": (0.38, 0.25, 0.16),
    "denim": (0.29, 0.38, 0.55),
    "khaki": (0.50, 0.47, 0.32),
}
SKIN: tuple[Colour, ...] = ((0.94, 0.78, 0.67), (0.86, 0.66, 0.52), (0.68, 0.47, 0.34), (0.45, 0.29, 0.20))
HAIR: tuple[Colour, ...] = (
    (0.09, 0.07, 0.06),
    (0.28, 0.17, 0.10),
    (0.50, 0.32, 0.16),
    (0.82, 0.66, 0.36),
    (0.62, 0.60, 0.58),
    (0.56, 0.22, 0.10),
)
BOTTOM_COLOURS = ("black", "navy", "grey", "denim", "khaki", "beige", "brown", "white")
TOP_COLOURS = ("white", "black", "grey", "red", "navy", "sky", "green", "mustard", "pink", "purple", "beige", "teal")
PATTERNS = ("plain", "stripes", "pinstripes", "checks", "block", "band", "yoke", "dots", "sleeves", "panels", "print")
TOPS = ("shirt", "shirt", "tee", "tee", "jacket", "hoodie", "coat", "vest")
BOTTOMS = ("trousers", "trousers", "trousers", "slim", "shorts", "skirt", "long skirt")
HAIR_STYLES = ("short", "short", "long", "bob", "ponytail", "bun", "bald", "curly")
HATS = ("none", "none", "none", "none", "cap", "beanie", "brimmed", "scarf")
BAGS = ("none", "none", "backpack", "backpack", "shoulder bag", "handbag", "carrier")


@dataclass(frozen=True)
class Identity:
    """What stays the same in every picture of a person; lengths are in metres, `girth` a factor on widths."""

    top: str
    top_colour: Colour
    accent: Colour
    pattern: str
    bottom: str
    bottom_colour: Colour
    side_stripe: bool
    shoe_colour: Colour
    skin: Colour
    hair: str
    hair_colour: Colour
    beard: bool
    hat: str
    hat_colour: Colour
    bag: str
    bag_colour: Colour
    left_handed: bool
    height: float
    girth: float
    shoulders: float
    hips: float
    legs: float
    stoop: float

    def looks(self) -> tuple[object, ...]:
        """What a person would name to tell this one from another in the same colours."""
        return self.pattern, self.accent, self.top, self.bottom, self.bag, self.hair, self.hat


def draw_identities(count: int, rng: np.random.Generator, alike: int = 3) -> list[Identity]:
    """Draw `count` people, `alike` of whom at a time wear the same two colours.

    Two who wear the same colours differ in at least five of the seven looks, so colours alone do not tell people
    apart but a person looking at the pictures can.
    """
    people: list[Identity] = []
    used: set[tuple[str, str]] = set()
    while len(people) < count:
        colours = _outfit(rng, used)
        group: list[Identity] = []
        while len(group) < min(alike, count - len(people)):
            someone = draw_identity(rng, *colours)
            if all(_differences(someone, other) >= 5 for other in group):
                group.append(someone)
        people += group
    return people


def _outfit(rng: np.random.Generator, used: set[tuple[str, str]]) -> tuple[str, str]:
    while len(used) < len(TOP_COLOURS) * (len(BOTTOM_COLOURS) - 2):
        pair = str(rng.choice(TOP_COLOURS)), str(rng.choice(BOTTOM_COLOURS))
        if pair[0] != pair[1] and pair not in used:
            used.add(pair)
            return pair
    used.clear()
    return _outfit(rng, used)


def _differences(one: Identity, other: Identity) -> int:
    return sum(a != b for a, b in zip(one.looks(), other.looks(), strict=True))


def draw_identity(
    rng: np.random.Generator, top_colour: str | None = None, bottom_colour: str | None = None
) -> Identity:
    """Draw one person; colours that are not given are drawn too."""
    top_colour = top_colour or str(rng.choice(TOP_COLOURS))
    bottom_colour = bottom_colour or str(rng.choice(BOTTOM_COLOURS))
    accents = [name for name in CLOTH if _contrast(CLOTH[name], CLOTH[top_colour]) > 0.35]
    return Identity(
        top=str(rng.choice(TOPS)),
        top_colour=CLOTH[top_colour],
        accent=CLOTH[str(rng.choice(accents))],
        pattern=str(rng.choice(PATTERNS)),
        bottom=str(rng.choice(BOTTOMS)),
        bottom_colour=CLOTH[bottom_colour],
        side_stripe=bool(rng.random() < 0.2),
        shoe_colour=CLOTH[str(rng.choice(["black", "white", "brown", "red", "grey"]))],
        skin=SKIN[rng.choice(len(SKIN), p=[0.35, 0.3, 0.2, 0.15])],
        hair=str(rng.choice(HAIR_STYLES)),
        hair_colour=HAIR[rng.choice(len(HAIR), p=[0.32, 0.24, 0.14, 0.14, 0.08, 0.08])],
        beard=bool(rng.random() < 0.2),
        hat=str(rng.choice(HATS)),
        hat_colour=CLOTH[str(rng.choice(TOP_COLOURS))],
        bag=str(rng.choice(BAGS)),
        bag_colour=CLOTH[str(rng.choice(["black", "red", "brown", "mustard", "navy", "white", "teal"]))],
        left_handed=bool(rng.random() < 0.5),
        height=float(rng.uniform(1.55, 1.92)),
        girth=float(np.exp(rng.normal(0.02, 0.14))),
        shoulders=float(rng.uniform(0.88, 1.12)),
        hips=float(rng.uniform(0.90, 1.15)),
        legs=float(rng.uniform(0.47, 0.52)),
        stoop=float(max(0.0, rng.normal(0.02, 0.04))),
    )


def _contrast(one: Colour, other: Colour) -> float:
    return float(np.abs(np.subtract(one, other)).max())
