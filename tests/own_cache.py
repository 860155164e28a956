"""A fixture for modules whose models are cached apart from the user's; they import it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEAKEASY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
