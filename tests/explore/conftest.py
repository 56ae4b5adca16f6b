"""The exhibit of explored.py, once a module, and a client of the page over it."""

import pytest
from explored import Place, make_place, use_tiny_backbone

from slsr.explore.app import create_app
from slsr.explore.exhibit import Exhibit, open_exhibit


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    return make_place(tmp_path_factory.mktemp("explore"))


@pytest.fixture(scope="module")
def exhibit(place) -> Exhibit:
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        yield open_exhibit(place.sources, place.cache, "cpu", lambda text: None)


@pytest.fixture
def client(exhibit):
    app = create_app(exhibit)
    app.testing = False
    return app.test_client()
