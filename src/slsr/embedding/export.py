"""Write a trained encoder as a file that other programs run: ONNX or TorchScript.

The network takes normalized images, float32 [N, 3, height, width] with any N, and returns the same as
`LoadedEncoder.embed`: the features of the images plus those of the mirrored images, scaled to length 1. The file's
metadata says under `slsr`, as JSON, how an image becomes the input. The file appears only after its features have been
compared with those of the model.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from slsr.embedding.encoder import LoadedEncoder
from slsr.embedding.engine import features_of_inputs
from slsr.errors import CheckFailed
from slsr.files import replaced_file
from slsr.images.augmentation import NORMALIZATION
from slsr.images.decoding import BACKGROUND, Pixels

Format = Literal["onnx", "torchscript"]

INPUT, OUTPUT = "images", "features"
METADATA = "slsr"
OPSET = 18
COMPARED = 64
PARITY = 0.9999

# Unless this is set before it is imported, onnxruntime reports to Microsoft, and keeps a device number and an outbox in
# the home folder.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

Inputs = NDArray[np.float32]
Run = Callable[[Inputs], NDArray[np.float32]]


@dataclass(frozen=True)
class Parity:
    """The worst agreement of exported and own features over `images` images: lowest cosine, largest difference."""

    cosine: float
    difference: float
    images: int


class Embedder(nn.Module):
    """What is exported: normalized images [N, 3, H, W] to features of length 1, [N, D]."""

    def __init__(self, encoder: LoadedEncoder) -> None:
        super().__init__()
        self.network = encoder.network
        self.flip = encoder.flip

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features of a batch."""
        return nn.functional.normalize(features_of_inputs(self.network, images, self.flip))


def preprocessing(encoder: LoadedEncoder) -> dict[str, Any]:
    """Describe the input and the output of the exported network: the metadata of the file."""
    image, (height, width) = encoder.image, encoder.size
    mean, deviation = NORMALIZATION[image.normalization]
    return {
        "input": {"name": INPUT, "type": "float32", "shape": ["N", 3, height, width], "channels": "RGB"},
        "output": {"name": OUTPUT, "type": "float32", "shape": ["N", encoder.dimension], "length": 1},
        "upright": "turn the image as its EXIF orientation says, before resizing",
        "background": list(BACKGROUND),
        "resize": {
            "height": image.resize_height,
            "width": image.resize_width,
            "interpolation": image.interpolation,
            "antialias": True,
            "keep_aspect_ratio": False,
        },
        "center_crop": {"height": height, "width": width} if image.test == "center-crop" else None,
        "scale": 1 / 255,
        "mean": list(mean),
        "std": list(deviation),
        "mirrored_added": encoder.flip,
        "backbone": encoder.network.description.backbone,
        "model_fingerprint": encoder.fingerprint,
    }


def export(encoder: LoadedEncoder, path: Path, form: Format) -> Parity:
    """Write an encoder as ONNX or TorchScript, and check it. The encoder has to be on the CPU.

    Parameters
    ----------
    path
        The file appears under this name only after the check.

    Returns
    -------
    How well the features of 64 images of noise agree with those of `encoder.embed`, in batches of several sizes.

    Raises
    ------
    InputError
        Another process is writing this file.
    CheckFailed
        The exported features are not those of the model (a cosine similarity is 0.9999 or less); nothing is written.
    """
    write, read = (_write_onnx, run_onnx) if form == "onnx" else (_write_torchscript, run_torchscript)
    metadata = preprocessing(encoder)
    with replaced_file(path) as partial:
        with _quiet(), torch.inference_mode(False), torch.no_grad():
            write(partial, Embedder(encoder).eval(), encoder.size, metadata)
        parity = compare(encoder, read(partial))
        if not parity.cosine > PARITY:
            raise CheckFailed(
                f"{path}: not written, because its features differ from those of the model: the lowest cosine "
                f"similarity of {parity.images} images is {parity.cosine:.6f}; try the other format"
            )
    return parity


def _write_onnx(path: Path, network: nn.Module, size: tuple[int, int], metadata: dict[str, Any]) -> None:
    import onnx

    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, *size),),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes={"images": {0: torch.export.Dim("N")}},
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(metadata, sort_keys=True)
    model.producer_name = "slsr"
    onnx.checker.check_model(model)
    onnx.save_model(model, str(path))


def _write_torchscript(path: Path, network: nn.Module, size: tuple[int, int], metadata: dict[str, Any]) -> None:
    traced = torch.jit.trace(network, torch.zeros(2, 3, *size))
    files = {METADATA: json.dumps(metadata, sort_keys=True)}
    torch.jit.save(torch.jit.freeze(traced), str(path), _extra_files=files)


def run_onnx(path: Path, threads: int = 0) -> Run:
    """Open an exported ONNX file as a function from normalized images to features, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Inputs) -> NDArray[np.float32]:
        features: NDArray[np.float32] = session.run([OUTPUT], {INPUT: images})[0]
        return features

    return run


def run_torchscript(path: Path) -> Run:
    """Open an exported TorchScript file as a function from normalized images to features, on the CPU."""
    with _quiet():
        network = torch.jit.load(str(path), map_location="cpu")

    @torch.inference_mode()
    def run(images: Inputs) -> NDArray[np.float32]:
        features: NDArray[np.float32] = network(torch.from_numpy(images)).numpy()
        return features

    return run


def compare(encoder: LoadedEncoder, run: Run, images: int = COMPARED, seed: int = 0) -> Parity:
    """Compare the features of an exported network with those of the model, on colored noise, in uneven batches."""
    pixels = drawn_pixels(encoder, images, seed)
    ours = encoder.embed_pixels(pixels)
    inputs = network_input(encoder, pixels)
    batches = np.split(inputs, [1, images // 2, images - 1]) if images > 3 else [inputs]
    theirs = np.concatenate([run(np.ascontiguousarray(batch)) for batch in batches])
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return Parity(float(((ours * theirs).sum(axis=1) / lengths).min()), float(np.abs(ours - theirs).max()), images)


def drawn_pixels(encoder: LoadedEncoder, images: int, seed: int = 0) -> Pixels:
    """Draw noise, fine and coarse, of the size of resized images: uint8 [N, resize_height, resize_width, 3]."""
    image, random = encoder.image, np.random.default_rng(seed)
    pixels = np.empty((images, image.resize_height, image.resize_width, 3), np.uint8)
    for row, picture in enumerate(pixels):
        cells = 2 ** (row % 5 + 1)
        coarse = random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        vertical, horizontal = (np.arange(length) * cells // length for length in picture.shape[:2])
        picture[:] = coarse[vertical][:, horizontal]
    return pixels


def network_input(encoder: LoadedEncoder, pixels: Pixels) -> Inputs:
    """Prepare resized images by the file's metadata alone: cropped, scaled, normalized, channels first."""
    rules = preprocessing(encoder)
    if crop := rules["center_crop"]:
        top, left = (pixels.shape[1] - crop["height"]) // 2, (pixels.shape[2] - crop["width"]) // 2
        pixels = pixels[:, top : top + crop["height"], left : left + crop["width"]]
    normalized = (pixels * rules["scale"] - rules["mean"]) / rules["std"]
    return np.ascontiguousarray(normalized.transpose(0, 3, 1, 2), np.float32)


@contextmanager
def _quiet() -> Any:
    """Suppress what the exporters log about their own code and its deprecation."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
