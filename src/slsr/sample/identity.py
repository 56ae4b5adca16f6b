"""Draw who is shown: the lasting appearance of a person, from build to bag."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slsr.sample.paint import Color

CLOTH: dict[str, Color] = {
    "white": (0.88, 0.87, 0.85),
    "black": (0.10, 0.10, 0.11),
    "gray": (0.47, 0.47, 0.48),
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
SKIN: tuple[Color, ...] = ((0.94, 0.78, 0.67), (0.86, 0.66, 0.52), (0.68, 0.47, 0.34), (0.45, 0.29, 0.20))
HAIR: tuple[Color, ...] = (
    (0.09, 0.07, 0.06),
    (0.28, 0.17, 0.10),
    (0.50, 0.32, 0.16),
    (0.82, 0.66, 0.36),
    (0.62, 0.60, 0.58),
    (0.56, 0.22, 0.10),
)
BOTTOM_COLORS = ("black", "navy", "gray", "denim", "khaki", "beige", "brown", "white")
TOP_COLORS = ("white", "black", "gray", "red", "navy", "sky", "green", "mustard", "pink", "purple", "beige", "teal")
PATTERNS = ("plain", "stripes", "pinstripes", "checks", "block", "band", "yoke", "dots", "sleeves", "panels", "print")
TOPS = ("shirt", "shirt", "tee", "tee", "jacket", "hoodie", "coat", "vest")
BOTTOMS = ("trousers", "trousers", "trousers", "slim", "shorts", "skirt", "long skirt")
HAIR_STYLES = ("short", "short", "long", "bob", "ponytail", "bun", "bald", "curly")
HATS = ("none", "none", "none", "none", "cap", "beanie", "brimmed", "scarf")
BAGS = ("none", "none", "backpack", "backpack", "shoulder bag", "handbag", "carrier")


@dataclass(frozen=True)
class Identity:
    """What stays the same in every picture of a person. `height` is in meters; `girth` is a factor of the widths."""

    top: str
    top_color: Color
    accent: Color
    pattern: str
    bottom: str
    bottom_color: Color
    side_stripe: bool
    shoe_color: Color
    skin: Color
    hair: str
    hair_color: Color
    beard: bool
    hat: str
    hat_color: Color
    bag: str
    bag_color: Color
    left_handed: bool
    height: float
    girth: float
    shoulders: float
    hips: float
    legs: float
    stoop: float

    def looks(self) -> tuple[object, ...]:
        """Return what distinguishes this person from another one in the same colors."""
        return self.pattern, self.accent, self.top, self.bottom, self.bag, self.hair, self.hat


def draw_identities(count: int, rng: np.random.Generator, alike: int = 3) -> list[Identity]:
    """Draw `count` people in groups of `alike` people who wear the same two colors.

    Two people in the same colors differ in at least five of the seven looks. So colors are not enough to distinguish
    people, but a human who looks at the pictures can do it.
    """
    people: list[Identity] = []
    used: set[tuple[str, str]] = set()
    while len(people) < count:
        colors = _outfit(rng, used)
        group: list[Identity] = []
        while len(group) < min(alike, count - len(people)):
            someone = draw_identity(rng, *colors)
            if all(_differences(someone, other) >= 5 for other in group):
                group.append(someone)
        people += group
    return people


def _outfit(rng: np.random.Generator, used: set[tuple[str, str]]) -> tuple[str, str]:
    while len(used) < len(TOP_COLORS) * (len(BOTTOM_COLORS) - 2):
        pair = str(rng.choice(TOP_COLORS)), str(rng.choice(BOTTOM_COLORS))
        if pair[0] != pair[1] and pair not in used:
            used.add(pair)
            return pair
    used.clear()
    return _outfit(rng, used)


def _differences(one: Identity, other: Identity) -> int:
    return sum(a != b for a, b in zip(one.looks(), other.looks(), strict=True))


def draw_identity(rng: np.random.Generator, top_color: str | None = None, bottom_color: str | None = None) -> Identity:
    """Draw one person; colors that are None are drawn too."""
    top_color = top_color or str(rng.choice(TOP_COLORS))
    bottom_color = bottom_color or str(rng.choice(BOTTOM_COLORS))
    accents = [name for name in CLOTH if _contrast(CLOTH[name], CLOTH[top_color]) > 0.35]
    return Identity(
        top=str(rng.choice(TOPS)),
        top_color=CLOTH[top_color],
        accent=CLOTH[str(rng.choice(accents))],
        pattern=str(rng.choice(PATTERNS)),
        bottom=str(rng.choice(BOTTOMS)),
        bottom_color=CLOTH[bottom_color],
        side_stripe=bool(rng.random() < 0.2),
        shoe_color=CLOTH[str(rng.choice(["black", "white", "brown", "red", "gray"]))],
        skin=SKIN[rng.choice(len(SKIN), p=[0.35, 0.3, 0.2, 0.15])],
        hair=str(rng.choice(HAIR_STYLES)),
        hair_color=HAIR[rng.choice(len(HAIR), p=[0.32, 0.24, 0.14, 0.14, 0.08, 0.08])],
        beard=bool(rng.random() < 0.2),
        hat=str(rng.choice(HATS)),
        hat_color=CLOTH[str(rng.choice(TOP_COLORS))],
        bag=str(rng.choice(BAGS)),
        bag_color=CLOTH[str(rng.choice(["black", "red", "brown", "mustard", "navy", "white", "teal"]))],
        left_handed=bool(rng.random() < 0.5),
        height=float(rng.uniform(1.55, 1.92)),
        girth=float(np.exp(rng.normal(0.02, 0.14))),
        shoulders=float(rng.uniform(0.88, 1.12)),
        hips=float(rng.uniform(0.90, 1.15)),
        legs=float(rng.uniform(0.47, 0.52)),
        stoop=float(max(0.0, rng.normal(0.02, 0.04))),
    )


def _contrast(one: Color, other: Color) -> float:
    return float(np.abs(np.subtract(one, other)).max())
