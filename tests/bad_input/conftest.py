"""What all cases share."""

from pathlib import Path

import pytest

from bad_input.world import Stock, World, make_stock


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory, scenes_root: Path) -> Stock:
    """What is made once; nothing may be changed in it."""
    return make_stock(tmp_path_factory.mktemp("stock"), scenes_root)


@pytest.fixture
def world(stock: Stock, store: str, tmp_path: Path) -> World:
    """A folder, with a tracking store, to put a mistake into."""
    return World(tmp_path, stock)
