"""Fixtures that many tests share; their functions are in tiny.py."""

import copy
import os
import shutil
import sys

# Tiny tensors, and as many test processes as cores: threads cost more than they bring, in started programs too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import hypothesis
import pytest

# No deadline, since the machine may be shared, and the same examples in every run.
hypothesis.settings.register_profile("slsr", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("slsr")

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP rebound.example 127.0.0.1",
]

LONGEST = ("test_pipeline.py", "test_train_gan.py", "test_gan.py", "test_processes.py", "test_resume.py")


def pytest_collection_modifyitems(items):
    """Run the longest files first, so that parallel processes, which take one file at a time, end together."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Use one thread, because more threads slow down operations on tiny tensors."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def values():
    """The parsed presets/defaults.yaml, which a test may change."""
    from tiny import DEFAULTS

    return copy.deepcopy(DEFAULTS)


@pytest.fixture
def tiny_backbone(monkeypatch):
    """Replace `resnet18` by two small convolutions with 16 channels, so that a training run is fast."""
    from tiny import build_tiny_backbone

    from slsr.models import backbones, encoder

    monkeypatch.setattr(encoder, "build_backbone", build_tiny_backbone)
    monkeypatch.setitem(backbones.WIDTHS, "resnet18", 16)


@pytest.fixture
def run_slsr(monkeypatch, capsys):
    """A function that runs `slsr` with arguments in this process; it returns exit code, stdout and stderr."""
    from slsr.cli import main as cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["slsr", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def chromium():
    """A real browser that needs no screen."""
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        message = f"no Chromium on PATH (looked for {', '.join(CHROMIUM)})"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()
