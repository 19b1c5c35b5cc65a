"""`comem convert`: options, and what is printed."""

from __future__ import annotations

import argparse
from pathlib import Path

from comem.io.console import out, print_facts

_HELP = """\
examples:
  comem convert continuous-memory-qwen2.5-vl                                # shows what is in it
  comem convert continuous-memory-qwen2.5-vl models/encoder --base qwen2_5_vl_7b --reader models/reader
  comem convert checkpoint-800 models/adapter --base Qwen/Qwen2.5-VL-7B-Instruct
Layouts: merged with Q-Former (converted), merged without (refused: the Q-Former is lost), raw run folder with
adapter_model.safetensors (converted; needs --base). Nothing is unpickled. Training files: comem data convert.
"""


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `comem convert`."""
    parser.epilog = _HELP
    parser.add_argument("source", type=Path, metavar="FOLDER", help="a checkpoint of the authors'")
    parser.add_argument(
        "out", type=Path, nargs="?", metavar="OUT", help="encoder folder (default: only look)"
    )
    parser.add_argument(
        "--base", default="", metavar="NAME", help="the model that was trained; it is compared"
    )
    parser.add_argument("--reader", type=Path, metavar="DIR", help="write the stored reader here, as a model")
    parser.add_argument(
        "--question-vision", default="reader", choices=("reader", "encoder"),
        help="whose vision tower that reader gets: its own, or the encoder's, as in the authors' code",
    )  # fmt: skip
    parser.add_argument("--fold", action="store_true", help="fold a raw run folder's LoRA into the weights")
    parser.add_argument(
        "--min-pixels", type=int, metavar="N", help="of items' pictures (default: the paper's)"
    )
    parser.add_argument(
        "--max-pixels", type=int, metavar="N", help="of items' pictures (default: the paper's)"
    )
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"),
        help="of what is written (default: as stored)",
    )  # fmt: skip


def run_convert(args: argparse.Namespace) -> int:
    """Show what a checkpoint holds; write the encoder folder where one was named."""
    from comem.compat.convert import ConvertSettings, base_weights_of, convert_checkpoint
    from comem.compat.inspect import inspect_checkpoint
    from comem.memory.items import KnowledgeFormat

    base = base_weights_of(args.base) if args.base else None
    found = inspect_checkpoint(args.source, base)
    print_facts(found.lines())
    if args.out is None:
        if found.refusal:
            raise ValueError(found.refusal)
        return 0
    form = KnowledgeFormat(min_pixels=args.min_pixels, max_pixels=args.max_pixels)
    settings = ConvertSettings(args.base, args.question_vision, args.dtype, args.fold, form)
    del base  # it is read again, or not needed any more
    notes = convert_checkpoint(args.source, args.out, found, settings, args.reader)
    print_facts([("written", str(args.out)), *([("reader", str(args.reader))] if args.reader else [])])
    for note in notes:
        out().print(f"note: {note}", markup=False)
    return 0
