"""Memories on the embedded models, as of the tests of memories themselves."""

from store.conftest import models, opened, remembered, towns  # noqa: F401
