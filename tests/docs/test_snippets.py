"""Python in the pages runs: the snippets of a page one after the other, in a folder of its own.

The folder has what the pages take for granted: a model below artifacts/ (untrained here) and two images. A snippet that
needs more, and has a test of its own, has `<!-- not run: why -->` above it.
"""

import pytest
import torch
from pages import PAGES, fences, name_of
from tiny import encode, make_image, noise

from slsr.models.encoder import Encoder, EncoderDescription, save_encoder

SNIPPETS = {page: [fence for fence in fences(page) if fence.language == "python" and fence.run] for page in PAGES}
WITH_SNIPPETS = [page for page, snippets in SNIPPETS.items() if snippets]


def lay_out(folder):
    torch.manual_seed(0)
    encoder = Encoder(EncoderDescription("resnet18", "plain", 4, make_image()))
    save_encoder(folder / "artifacts/train/slsr/model.safetensors", encoder)
    for name, pixels in zip(("first.jpg", "second.jpg"), noise(2), strict=True):
        (folder / name).write_bytes(encode(pixels, "JPEG"))


@pytest.mark.parametrize("page", WITH_SNIPPETS, ids=name_of)
def test_the_snippets_of_a_page_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if any("artifacts/" in snippet.text for snippet in SNIPPETS[page]):
        lay_out(tmp_path)
    names = {"__name__": "snippet"}
    for snippet in SNIPPETS[page]:
        code = compile("\n" * (snippet.line - 1) + snippet.text, str(page), "exec")
        exec(code, names)


def test_there_are_snippets():
    assert len(WITH_SNIPPETS) >= 6
