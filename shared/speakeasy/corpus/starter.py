"""The packaged texts: short, original, in Catalan and in the Spanish of Catalonia.

Written for this project by a language model, and awaiting review by native speakers.

====================  ===  =============================================
``ca``                80   Catalan
``es-ca``             80   Spanish with a Catalan accent
``es``                70   plain Spanish, for measuring and as replay
``ca-neutral``        25   plain Catalan, for measuring
====================  ===  =============================================
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from speakeasy.corpus.documents import Document, read_documents
from speakeasy.errors import DataError

STARTER_NAMES = ("ca", "es-ca", "es", "ca-neutral")
STARTER_DEFAULT = ("ca", "es-ca")


def starter_text_files(*names: str) -> list[Path]:
    """The packaged files of these names; ``ca`` and ``es-ca`` when none is given.

    Raises:
        DataError: there is no such packaged file.
    """
    folder = resources.files("speakeasy.data") / "starter" / "corpus"
    for name in names:
        if name not in STARTER_NAMES:
            raise DataError(f"{name}: no packaged text; expected one of {', '.join(STARTER_NAMES)}")
    with resources.as_file(folder) as path:
        return [path / f"{name}.txt" for name in names or STARTER_DEFAULT]


def starter_texts(*names: str) -> list[Document]:
    """The packaged documents of these names; ``ca`` and ``es-ca`` when none is given.

    Raises:
        DataError: there is no such packaged file.
    """
    return list(read_documents(starter_text_files(*names)))
