"""A row of the backbone table: what a model is and can do. The code asks the row, never the name."""

from __future__ import annotations

from dataclasses import dataclass


class BackboneError(ValueError):
    """A backbone that cannot be found, read or used as asked; the message names the remedy."""


@dataclass(frozen=True)
class RagFormat:
    """How retrieved items enter a model's context: one user turn each, before the question's.

    Attributes:
        images: whether items show their images; False for models that take one image or none.
        passage_first: passage before image in an item's turn.
        passage_chars: longer passages are cut; None for no limit.
    """

    images: bool = True
    passage_first: bool = False
    passage_chars: int | None = None


# The forms of the authors' scripts (authors_code.md 4)
PASSAGE_IMAGE = RagFormat(passage_first=True)  # Qwen-VL, LLaVA-1.6, InternLM-XComposer
IMAGE_PASSAGE = RagFormat()  # mPLUG-Owl3
PASSAGES = RagFormat(images=False)  # LLaVA-NeXT-LLaMA3, Qwen2.5-Instruct
PASSAGES_500 = RagFormat(images=False, passage_chars=500)  # LLaVA-1.5


@dataclass(frozen=True)
class BackboneSpec:
    """One row: where a model is and what it can do.

    Attributes:
        name: the row's key, or a folder's name.
        source: hub repository or local folder.
        family: `model_type` in the model's config.json.
        sees_images: False for a text-only receiver; images are then left out of its conversations.
        several_images: whether a conversation may hold more than one image.
        soft_prefix: whether memory can be put in front of its input embeddings.
        kv_memory: whether keys and values can be put in front of its layers.
        pixel_limits: whether its image processor takes a smallest and largest number of pixels.
        alternates: whether its chat template wants user and assistant in turn; turns of one role that
            follow each other are then written as one.
        mixed_batches: whether its processor takes rows with and without images in one call.
        rag: how retrieved items enter its context.
        model_class: the transformers Auto class that loads the model.
        processor_class: the transformers Auto class that loads processor or tokenizer.
        adapter: module with its own `load`, for models whose code lies in their hub repository.
        needs: a package beyond this project's, by its name at the package index.
    """

    name: str
    source: str
    family: str
    sees_images: bool = True
    several_images: bool = True
    soft_prefix: bool = True
    kv_memory: bool = True
    pixel_limits: bool = False
    alternates: bool = False
    mixed_batches: bool = True
    rag: RagFormat = RagFormat()
    model_class: str = "AutoModelForImageTextToText"
    processor_class: str = "AutoProcessor"
    adapter: str = ""
    needs: str = ""

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that it can be run in, by their names in `comem.modes.MODES`."""
        able = {"comem": self.soft_prefix, "vlm_as_memory": self.kv_memory}
        return ("baseline", "rag", *(name for name, can in able.items() if can))
