"""Makes what is stored here: a tiny BEM by TensorFlow's own packages, and what it says.

    pip install tensorflow-cpu tensorflow-text tf-keras tf-models-official
    TF_USE_LEGACY_KERAS=1 python tests/benchmarks/bem/make.py tests/benchmarks/bem

The model is Model Garden's BertClassifier with random weights, saved as the published module is (ids
and segments in, logits out); its inputs come from tensorflow_text, put together as in the published notebook.
 Made with TensorFlow 2.21.0, tensorflow-text 2.21.1, tf-models-official 2.20.0.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_text as text
from official.nlp.modeling.models import bert_classifier
from official.nlp.modeling.networks import bert_encoder

PIECES = (
    "[PAD] [unused1] [UNK] [CLS] [SEP] [MASK] the sky is blue why light scattering of ##ing scatter cafe "
    "how tall tower ##s meter ##er 324 3 ##24 , . ? ! - ' \" [ ] ( ) sep birds insects and a m ##m un "
    "##us ##ed 中 国 world ##ly"
).split()
ASKED = [
    ("why is the sky blue", "light scattering", "scattering of light"),
    ("How tall is the Tower?", "324 meters", "It's 324 m."),
    ("Why?", "birds, insects", "Insects and birds"),
    ("How tall is the CAFÉ?", "3", "[SEP] unused 中国 worldly"),
    ("why is the sky blue", "xyzzy", ""),
]
LENGTH = 64


class Bem(tf.Module):
    def __init__(self, model: tf.keras.Model) -> None:
        super().__init__()
        self.model = model

    @tf.function(
        input_signature=[
            {
                "input_ids": tf.TensorSpec([None, None], tf.int64),
                "segment_ids": tf.TensorSpec([None, None], tf.int64),
            }
        ]
    )
    def __call__(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        ids = tf.cast(inputs["input_ids"], tf.int32)
        mask = tf.cast(ids != 0, tf.int32)
        return self.model([ids, mask, tf.cast(inputs["segment_ids"], tf.int32)])


def main(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    tf.random.set_seed(0)
    encoder = bert_encoder.BertEncoder(
        vocab_size=len(PIECES), hidden_size=16, num_layers=2, num_attention_heads=2, intermediate_size=24,
        max_sequence_length=LENGTH, type_vocab_size=2,
        initializer=tf.keras.initializers.TruncatedNormal(stddev=0.4),
    )  # fmt: skip
    module = Bem(bert_classifier.BertClassifier(encoder, num_classes=2))
    rng = np.random.default_rng(0)
    for weight in module.model.weights:  # biases and norms that are not zero and one
        weight.assign(weight + rng.normal(0, 0.2, weight.shape))
    saved = folder / "saved"
    tf.saved_model.save(module, str(saved))
    shutil.rmtree(folder / "variables", ignore_errors=True)
    shutil.move(saved / "variables", folder / "variables")
    shutil.rmtree(saved)

    table = tf.lookup.StaticVocabularyTable(
        tf.lookup.TextFileInitializer(
            str(folder / "vocab.txt"), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        num_oov_buckets=1,
    )  # fmt: skip
    cls, sep = table.lookup(tf.constant(["[CLS]", "[SEP]"]))
    pieces = text.BertTokenizer(table, token_out_type=tf.int64, preserve_unused_token=True, lower_case=True)
    rows = []
    for question, reference, candidate in ASKED:
        parts = [pieces.tokenize(each).merge_dims(1, 2) for each in (candidate, reference, question)]
        ids, segments = (each.numpy()[0] for each in text.combine_segments(parts, cls, sep))
        padded = {
            name: np.pad(each, (0, LENGTH - len(each)))[None]
            for name, each in (("input_ids", ids), ("segment_ids", segments))
        }
        logits = module(padded).numpy()[0].astype(np.float64)
        score = float(np.exp(logits[1]) / np.exp(logits).sum())
        told = {"question": question, "reference": reference, "candidate": candidate, "score": score}
        rows.append({**told, "input_ids": ids.tolist(), "segment_ids": segments.tolist()})
    (folder / "golden.json").write_text(
        json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
