"""CoMEM as the authors' public code computes it, to compare with: written anew on transformers 5.x.

What costs is what their code does (../shared/reference/authors_code.md, sections 1.1 to 1.7 and 4): two whole
copies of the weights; one question at a time; its items one after another or as a left-padded batch of k; the
hidden states of all layers kept, and a cache built that nobody reads; the Q-Former item by item, its keys and
values of the item computed anew in each of its eight rounds; both copies' output layers over the whole
sequence; a Python loop of single steps for decoding. The question is embedded by the encoder's copy, pictures
included.

What is left out are deviations that cost nothing (reversed items, rounded positions, the shift while
decoding): on the same weights, memories and logits equal those of this project. Where their code has
flash-attention 2, this has whatever attention the given models have.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from comem.backbones.prepared import Prepared
from comem.memory.qformer import QFormer
from comem.profiling.bench import Bench, place
from comem.profiling.timing import Run, now


class AuthorsProcedure:
    """Encoder copy, Q-Former and reader copy.

    Args:
        encoder: an image-text-to-text model with the encoder's LoRA folded into its weights.
        qformer: reads the encoder's last hidden states.
        reader: the second copy, which answers.
        tower: of the encoder (the authors), or of the reader, to embed the question's picture.
    """

    def __init__(self, encoder: Any, qformer: QFormer, reader: Any, tower: str = "encoder") -> None:
        self.encoder, self.qformer, self.reader = encoder, qformer, reader
        self.seeing = {"encoder": encoder, "reader": reader}[tower]
        # On a GPU the packed attention, which is flash attention, as theirs; the rest is transformers'.
        on_gpu = next(reader.parameters()).is_cuda
        self._prepared = [Prepared(model, kernels=False) for model in (encoder, reader) if on_gpu]

    @classmethod
    def on(cls, bench: Bench) -> AuthorsProcedure:
        """With the bench's model, bare, as reader, and a second copy of it as encoder.

        The bench's LoRA is untrained, so folding it into the copy would change nothing.
        """
        qformer = bench.encoder().qformer
        reader = bench.bare()
        return cls(copy.deepcopy(reader), qformer, reader)

    @contextmanager
    def _flash(self) -> Iterator[None]:
        with ExitStack() as stack:
            for prepared in self._prepared:
                stack.enter_context(prepared)
            yield

    @torch.no_grad()
    def memory(self, batches: Sequence[dict[str, Tensor]]) -> Tensor:
        """Memory `(1, 8k, d)` of one question.

        Args:
            batches: its k items, as k batches of one, or as one left-padded batch.
        """
        parts = []
        for inputs in batches:
            with self._flash():
                hidden = self._read(inputs)  # (n, l, d)
            mask = inputs["attention_mask"].bool()
            parts += [
                self._compress(hidden[row : row + 1], mask[row : row + 1]) for row in range(len(hidden))
            ]
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def prefill(self, memory: Tensor, question: dict[str, Tensor]) -> tuple[Tensor, Any, Tensor]:
        """Logits `(1, 8k + l, v)` over the whole sequence, the cache, and the next position `(3, 1, 1)`."""
        embeds = torch.cat([memory, self._embed(question, self.seeing)], dim=1)
        places = self._positions(question)  # (3, 1, l)
        size = memory.shape[1]
        front = torch.arange(size, device=places.device).expand(3, 1, -1)
        positions = torch.cat([front, places + size], dim=-1)
        with self._flash():
            logits, cache = self._step(embeds, positions, None)
        return logits, cache, positions.amax(dim=(0, 2), keepdim=True).expand(3, 1, 1) + 1

    @torch.no_grad()
    def answer(self, items: Sequence[dict[str, Tensor]], question: dict[str, Tensor], new_tokens: int) -> Run:
        """Answer one question greedily, with exactly so many tokens."""
        device = self.reader.get_input_embeddings().weight.device
        start = now(device)
        question = place(question, device)
        memory = self.memory([place(batch, device) for batch in items])
        encoded = now(device)
        logits, cache, position = self.prefill(memory, question)
        token = logits[:, -1].argmax(dim=-1, keepdim=True)  # (1, 1)
        first = now(device)
        for step in range(new_tokens - 1):
            embeds = self.encoder.get_input_embeddings()(token)
            with self._flash():
                logits, cache = self._step(embeds, position + step, cache)
            token = logits[:, -1].argmax(dim=-1, keepdim=True)
        return Run(first - start, now(device) - start, new_tokens, {"encode": encoded - start})

    def _read(self, inputs: dict[str, Tensor]) -> Tensor:
        """Last hidden states `(n, l, d)` after the final norm; all layers' are kept, and a cache is made."""
        language: Any = self.encoder.model.language_model
        out = language(
            inputs_embeds=self._embed(inputs, self.encoder),
            position_ids=self._positions(inputs),
            attention_mask=inputs["attention_mask"],
            use_cache=True,
            output_hidden_states=True,
        )
        return out.hidden_states[-1]  # type: ignore[no-any-return]

    def _embed(self, inputs: dict[str, Tensor], seeing: Any) -> Tensor:
        """Embeddings `(n, l, d)` of words and pictures."""
        ids = inputs["input_ids"]
        embeds = self.encoder.get_input_embeddings()(ids)
        if inputs.get("pixel_values") is None:
            return embeds  # type: ignore[no-any-return]
        seen = seeing.model.get_image_features(
            inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True
        ).pooler_output
        where = (ids == self.encoder.config.image_token_id)[..., None]
        return embeds.masked_scatter(where, torch.cat(list(seen)).to(embeds))  # type: ignore[no-any-return]

    def _positions(self, inputs: dict[str, Tensor]) -> Tensor:
        """M-RoPE's `(3, n, l)`."""
        positions, _ = self.encoder.model.get_rope_index(
            inputs["input_ids"],
            mm_token_type_ids=inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            attention_mask=inputs["attention_mask"],
        )
        return positions  # type: ignore[no-any-return]

    def _compress(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """One item's memory `(1, q, d)`, nothing cached between the rounds."""
        config, layers = self.qformer.config, self.qformer.layers
        keys = F.pad(mask, (0, config.num_queries), value=True)[:, None, None, :]
        x = self.qformer.proj_in(hidden)
        latents = self.qformer.latents.to(x.dtype)
        for step in range(config.depth):
            block = 0 if config.shared else 2 * step
            attention, mlp = layers[block], layers[block + 1]
            latents = attention(latents, attention.read(x), keys) + latents  # type: ignore[operator]
            latents = mlp(latents) + latents
        return self.qformer.norm_out(self.qformer.proj_out(latents))  # type: ignore[no-any-return]

    def _step(self, embeds: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """The reader over these embeddings `(1, l, d)`; its own logits are computed and thrown away."""
        out = self.reader(
            inputs_embeds=embeds,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=True,
        )
        return self.encoder.lm_head(out.hidden_states[-1]).float(), out.past_key_values
