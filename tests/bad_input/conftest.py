"""What all cases share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import OwnStore

from bad_input.world import Stock, World, make_stock


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory, scenes_root: Path) -> Stock:
    """What is made once; nothing may be changed in it."""
    return make_stock(tmp_path_factory.mktemp("stock"), scenes_root)


@pytest.fixture(scope="module")
def shared_store(own_store: OwnStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking store for many cases: to open another one takes longer than most of them."""
    with own_store(tmp_path_factory.mktemp("store")) as uri:
        yield uri


@pytest.fixture
def world(stock: Stock, shared_store: str, tmp_path: Path) -> World:
    """A folder to put a mistake into."""
    return World(tmp_path, stock)


@pytest.fixture
def own_world(stock: Stock, store: str, tmp_path: Path) -> World:
    """A folder with a tracking store that nobody else writes to."""
    return World(tmp_path, stock)
