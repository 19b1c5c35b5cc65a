"""BEM: a BERT that says whether an answer means the same as the reference (Bulian et al., arXiv 2202.07654).

The published form (tfhub.dev/google/answer_equivalence/bem/1, its notebook and Encyclopedic-VQA's
evaluation_utils.py): `[CLS] candidate [SEP] reference [SEP] question [SEP]` in BERT's uncased WordPieces,
segments 0, 1 and 2, padded to 512; the second of two logits, as a probability, is the score.

Weights: `comem convert FOLDER models/bem` writes them from the published SavedModel. Sequence classifiers
of transformers serve, too; where those know two segments only, reference and question share one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comem.io.files import read_json

log = logging.getLogger(__name__)

#: How the weights were converted: whether padding is attended to. `comem convert` writes it.
FACTS = "bem.json"
LENGTH = 512
#: An answer is right from this probability on (Encyclopedic-VQA).
THRESHOLD = 0.5
REMEDY = (
    "give its weights (--judge DIR). Fetch tfhub.dev/google/answer_equivalence/bem/1 "
    "(kaggle.com/models/google/bert, answer-equivalence-bem) and the vocabulary of bert-base-uncased, then: "
    "comem convert FOLDER models/bem --base bert-base-uncased"
)


@dataclass(frozen=True)
class Compared:
    """An answer to be judged: what was asked, an accepted answer, and what was said."""

    question: str
    reference: str
    candidate: str


#: What the published notebook asks, and prints.
PUBLISHED = Compared("why is the sky blue", "light scattering", "scattering of light"), 0.9891803860664368


class Bem:
    """The judge.

    Args:
        folder: a sequence classifier of transformers with two labels, and BERT's `vocab.txt`.
        device: where it runs.

    Example:
        >>> judge = Bem("models/bem")
        >>> judge.scores([Compared("why is the sky blue", "light scattering", "scattering of light")])
        [0.989...]

    Raises:
        ValueError: another folder; says what is missing and how it is made.
    """

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        from transformers import BertForSequenceClassification

        folder = Path(folder)
        for name in ("config.json", "vocab.txt"):
            if not (folder / name).is_file():
                raise ValueError(f"{folder}: BEM needs {name} there; {REMEDY}")
        config = read_json(folder / "config.json")
        if config.get("model_type") != "bert":
            raise ValueError(
                f"{folder}: a {config.get('model_type')} model; BEM is a BERT. To judge, {REMEDY}"
            )
        facts = read_json(folder / FACTS) if (folder / FACTS).is_file() else {}
        model = BertForSequenceClassification.from_pretrained(str(folder), local_files_only=True)
        if model.config.num_labels != 2:
            raise ValueError(f"{folder}: {model.config.num_labels} labels; BEM has two. To judge, {REMEDY}")
        self.model = model.to(device).eval()
        self.device = device
        self.pieces = WordPieces(folder / "vocab.txt")
        self.length = min(LENGTH, model.config.max_position_embeddings)
        self.segments = (0, 1, 2) if model.config.type_vocab_size > 2 else (0, 1, 1)
        self.attends_padding = facts.get("padding") == "attended"

    def scores(self, asked: Sequence[Compared], batch_size: int = 32) -> list[float]:
        """The probability that each answer means the same as the reference.

        Longer inputs than the model takes lose the candidate's end; officially they are an error.
        """
        import torch

        rows = [self.pieces.row(each, self.length, self.segments) for each in asked]
        order = sorted(range(len(rows)), key=lambda at: len(rows[at][0]))
        found = [0.0] * len(rows)
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            longest = self.length if self.attends_padding else max(len(rows[at][0]) for at in part)
            ids, kinds, mask = torch.zeros(3, len(part), longest, dtype=torch.long, device=self.device)
            for line, at in enumerate(part):
                count = len(rows[at][0])
                ids[line, :count], kinds[line, :count] = map(torch.tensor, rows[at])
                mask[line, : longest if self.attends_padding else count] = 1
            with torch.inference_mode():
                logits = self.model(input_ids=ids, token_type_ids=kinds, attention_mask=mask).logits
            for at, score in zip(part, logits.float().softmax(-1)[:, 1].tolist(), strict=True):
                found[at] = score
        return found


class WordPieces:
    """BERT's uncased WordPieces; what looks like a special token in a text is text.

    Args:
        vocabulary: `vocab.txt`, a piece a line.
    """

    def __init__(self, vocabulary: Path) -> None:
        from tokenizers import Tokenizer
        from tokenizers.models import WordPiece
        from tokenizers.normalizers import BertNormalizer
        from tokenizers.pre_tokenizers import BertPreTokenizer

        words = vocabulary.read_text(encoding="utf-8").splitlines()
        self.ids = {word: number for number, word in enumerate(words)}
        if missing := [word for word in ("[CLS]", "[SEP]", "[UNK]") if word not in self.ids]:
            raise ValueError(
                f"{vocabulary}: no {', '.join(missing)}; give the vocab.txt of bert-base-uncased"
            )
        self.tokenizer: Any = Tokenizer(WordPiece(self.ids, unk_token="[UNK]", max_input_chars_per_word=100))
        self.tokenizer.normalizer = BertNormalizer(lowercase=True)
        self.tokenizer.pre_tokenizer = BertPreTokenizer()

    def row(
        self, asked: Compared, length: int = LENGTH, segments: Sequence[int] = (0, 1, 2)
    ) -> tuple[list[int], list[int]]:
        """Ids and segments of an input, without padding."""
        texts = (asked.candidate, asked.reference, asked.question)
        candidate, reference, question = (self.tokenizer.encode(text).ids for text in texts)
        room = max(0, length - 4 - len(reference) - len(question))
        if len(candidate) > room:
            log.warning("an answer of %d word pieces is cut to %d for BEM", len(candidate), room)
        cls, sep = self.ids["[CLS]"], self.ids["[SEP]"]
        parts = ([cls, *candidate[:room], sep], [*reference, sep], [*question, sep])
        ids = [number for part in parts for number in part][:length]
        kinds = [kind for kind, part in zip(segments, parts, strict=True) for _ in part][:length]
        return ids, kinds
