"""The encoders of the memory's tests, for the checkpoints that are made of them."""

from tests.memory.conftest import base_model, encoder, items, make_encoder

__all__ = ["base_model", "encoder", "items", "make_encoder"]
