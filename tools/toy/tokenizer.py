"""A byte-level BPE tokenizer for the embedded world, with Qwen2.5-VL's special tokens and chat template.

Bytes make it total: any text in any language can be encoded. Numbers are split into groups of two
digits, Chinese into groups of two characters, and a word keeps one leading space, so that a value has
few spellings.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from comem.toy import lexicon
from comem.toy.world import World

SPECIAL_TOKENS = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|> "
    "<|fim_pad|>"
).split()

ITEM_PROMPT = " Similar image and text knowledge for reference"  # what the memory encoder's user turn says

SPLIT_PATTERN = (
    r" ?\p{Han}{1,2}| ?[\p{L}&&[^\p{Han}]]+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Qwen2.5-VL's template, without its tool and video branches
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def corpus(seed: int = 0, size: int = 600) -> Iterator[str]:
    """Text to learn merges from: passages, questions and answers of the training split, and captions."""
    rng = random.Random(f"tokenizer/{seed}")
    yield from (f"system\nYou are a helpful assistant.\nuser\n{ITEM_PROMPT}" for _ in range(100))
    for entity in World(seed, size).split("train"):
        yield f"user\n{entity.arms.caption()}\nassistant\n"
        for language in lexicon.LANGUAGES:
            yield f"{entity.name}: {entity.passage(language)}"
            for fact, wordings in lexicon.QUESTIONS[language].items():
                yield f"{rng.choice(wordings)}\nassistant\n{entity.value(fact, language)}"
    for language in lexicon.LANGUAGES:
        for words in lexicon.VALUES.values():
            yield from (f"{word}\n {word}" for word in words[language] for _ in range(40))
    for part in (*lexicon.NAME_STARTS, *lexicon.NAME_ENDS):
        yield from (f"{part}\n {part}" for _ in range(40))


def build_tokenizer(vocab_size: int = 3072) -> Any:
    """Train the tokenizer; returns a `PreTrainedTokenizerFast` of at most `vocab_size` tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=20,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=SPECIAL_TOKENS,
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[t for t in SPECIAL_TOKENS if t not in ("<|im_end|>", "<|endoftext|>")],
        model_max_length=8192,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
