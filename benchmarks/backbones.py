"""Which networks of timm can be a backbone: one of each family, by shapes alone, and the normalization of all weights.

    python benchmarks/backbones.py [--height 256 --width 128 --resize-height 288 --resize-width 144]

A family is a module of timm; its first name stands for it. Nothing is computed or downloaded.
"""

from __future__ import annotations

import argparse
from collections import Counter

import timm
import torch

from slsr.errors import InputError
from slsr.models.backbones import normalization_of
from slsr.models.encoder import FeatureExtractor
from slsr.params.recipe import Image

KINDS = {"both": "work with both sizes", "one": "work with one size", "none": "do not work"}


def main() -> None:
    options = parse()
    sizes = {name: getattr(options, name) for name in ("height", "width", "resize_height", "resize_width")}
    two = Image(**sizes, interpolation="bilinear", normalization="imagenet", test="whole")
    families = first_of_each_family()
    found = {name: kind_of(name, two) for name in families.values()}
    print(f"timm {timm.__version__}: {len(timm.list_models())} networks of {len(families)} families")
    for kind, title in KINDS.items():
        names = [name for name, own in found.items() if own == kind]
        print(f"\n{len(names)} {title}: {', '.join(sorted(names))}")
    names = timm.list_pretrained()
    counts = Counter(normalization(name) for name in names)
    print(
        f"\nnormalization of {len(names)} weights: {', '.join(f'{one} {count}' for one, count in counts.most_common())}"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, pixels in (("height", 256), ("width", 128), ("resize-height", 288), ("resize-width", 144)):
        parser.add_argument(f"--{name}", type=int, default=pixels)
    return parser.parse_args()


def first_of_each_family() -> dict[str, str]:
    """timm keeps each family in a module of its own."""
    return {
        module: timm.list_models(module=module)[0] for module in timm.list_modules() if timm.list_models(module=module)
    }


def kind_of(name: str, image: Image) -> str:
    one = image.model_copy(update={"test": "center-crop"})
    return next((kind for kind, sizes in (("both", image), ("one", one)) if works(name, sizes)), "none")


def works(name: str, image: Image) -> bool:
    try:
        with torch.device("meta"):
            FeatureExtractor(name, image)
    except InputError:
        return False
    return True


def normalization(name: str) -> str:
    try:
        return normalization_of(name)
    except InputError:
        return "another one"


if __name__ == "__main__":
    main()
