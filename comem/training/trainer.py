"""The training loop.

It is our own loop on accelerate and not transformers' Trainer, which stands in the way of four things
that are asked here: its checkpoints hold pickles (`optimizer.pt`, `rng_state.pth`) and every frozen
weight, they do not appear atomically, its schedule cannot follow the clock, and its loss is a mean per
micro-batch unless the model takes its own arguments. What remains is short. Data order and dropout are
functions of (seed, step), so the whole state of a run is the trainable weights, the optimizer's moments and
the step number, and a killed run goes on with the same losses and weights as an undisturbed one.
"""

from __future__ import annotations

import logging
import math
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from comem.io.console import Progress, bar, quiet
from comem.training import checkpoint as ckpt
from comem.training.collator import TrainingBatch
from comem.training.data import Lessons, TrainingExample
from comem.training.interrupt import Interrupt, Interrupted, ignore_signals
from comem.training.model import step_seed
from comem.training.optimizer import make_optimizer
from comem.training.ranks import largest, on_main, same_start, sharded, sum_gradients, use_bf16
from comem.training.run_log import RunLog, rewind_log
from comem.training.schedule import Order, Steps, lr_factor, parameter_groups, run_part
from comem.training.settings import TrainSettings


@torch.no_grad()
def evaluate(
    model: Any,
    backbone: Any,
    collator: Any,
    examples: Sequence[TrainingExample],
    batch_size: int,
    vectors: int = 0,
) -> dict[str, float]:
    """Loss (mean over answer tokens) and accuracy of generated answers.

    Args:
        model: as the trainer's; in training mode again afterwards, if it was.
        backbone: generates; None leaves the accuracy out.
        collator: makes the batches.
        examples: held out from training.
        batch_size: examples of a batch.
        vectors: of an item, from an encoder that writes any number; 0 for its own.

    Returns:
        `eval_loss`, `eval_accuracy`, `eval_examples`.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    loss, tokens, right, asked = 0.0, 0.0, 0, 0
    for at in range(0, len(examples), batch_size):
        batch = replace(collator(examples[at : at + batch_size]).to(device), vectors=vectors)
        if not batch.ids:
            continue
        summed, count = model(batch)
        loss, tokens, asked = loss + float(summed), tokens + float(count), asked + len(batch.ids)
        if backbone is not None:
            known = {example.id: example for example in examples[at : at + batch_size]}
            asking = [known[identifier] for identifier in batch.ids]
            chats = [[*collator.opening, *e.messages(last_answer=False)] for e in asking]
            answers = model.answers(backbone, chats, batch)
            right += sum(_counts(a.text, e) for a, e in zip(answers, asking, strict=True))
    model.train(was_training)
    metrics = {"eval_loss": loss / max(tokens, 1), "eval_examples": float(asked)}
    if backbone is not None:
        metrics["eval_accuracy"] = right / max(asked, 1)
    return metrics


def _counts(answer: str, example: TrainingExample) -> bool:
    """Whether the answer is right: an accepted one, or, where the record names a value, one that says it."""
    value = example.values[-1] if example.values else ""
    if value:
        return f" {_plain(value)} " in f" {_plain(answer)} "
    return is_right(answer, example.answers)


def is_right(answer: str, accepted: Sequence[str]) -> bool:
    """Whether the answer is an accepted one, case, punctuation and spaces aside.

    A quick guide for choosing checkpoints; the benchmarks' own scorers judge results.
    """
    return _plain(answer) in {_plain(text) for text in accepted}


def _plain(text: str) -> str:
    """Case-folded words; punctuation goes, except inside numbers (1.5 is not 15)."""
    text = unicodedata.normalize("NFKC", text).casefold()
    marks = "".join({c for c in text if unicodedata.category(c)[0] == "P"})
    words = (word.strip(marks) for word in text.split())
    return " ".join(word for word in words if word)


logger = logging.getLogger(__name__)

#: Takes a step and the figures of its evaluation.
Evaluated = Callable[[int, Mapping[str, float]], object]
_GIVE_UP = 100  # questions that cannot be read, and none that can


class NonFiniteLossError(ValueError):
    """The loss or the gradient is NaN or infinite; the message names the batch."""


@contextmanager
def _workers_alive() -> Iterator[None]:
    """Say in words that a data worker was killed; PyTorch raises that in the middle of whatever runs."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise ChildProcessError(
            f"a data worker ended unexpectedly (was there too little memory?): {str(error).splitlines()[0]}; "
            "run the same command again, it goes on from the last checkpoint; workers=0 needs none"
        ) from error


@dataclass(frozen=True)
class TrainResult:
    """What a run did: optimizer steps in all, seconds of training, last loss, the last evaluation."""

    folder: Path
    checkpoint: Path
    steps: int
    seconds: float
    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    def lines(self) -> list[tuple[str, str]]:
        """Label and value, for printing."""
        rows = [("run folder", str(self.folder)), ("encoder", str(self.checkpoint))]
        rows += [("steps", f"{self.steps:,} in {self.seconds:,.0f} s")]
        rows += [(name, f"{value:.4f}") for name, value in self.metrics.items()]
        return [*rows, ("next", f"comem merge {self.folder} {self.folder / 'merged'}")]


class Trainer:
    """Trains what of a model needs gradients, in a run folder that is settled and locked already.

    Args:
        settings: the run's configuration.
        model: a `MemoryTrainingModel` (with the checkpoint's weights when resuming), or what offers the same:
            called with a batch it gives loss and weight; `encoder` (saved, compared, prepared), `prepared`,
            `figures`, `answers`.
        collator: makes the batches.
        examples: what to train on.
        eval_examples: what to evaluate on; may be empty.
        backbone: generates the answers of the evaluation.
        resume: the checkpoint to go on from.
    """

    def __init__(
        self,
        settings: TrainSettings,
        model: Any,
        collator: Any,
        examples: Sequence[TrainingExample],
        eval_examples: Sequence[TrainingExample] = (),
        backbone: Any = None,
        resume: Path | None = None,
    ) -> None:
        self.settings, self.folder = settings, Path(settings.output)
        # accelerate keeps one precision for the whole process; ours is a setting of the run
        self.accelerator = Accelerator(mixed_precision="no")
        self.half = use_bf16(settings.precision)
        self.encoder, self.reader = model.encoder, model.prepared
        self.collator, self.backbone = collator, backbone
        self.examples, self.eval_examples = examples, eval_examples
        self.order = Order(len(examples), settings.batch_size, settings.seed, settings.shuffle)
        self.total = self.order.total_steps(settings.epochs, settings.max_steps)
        optim = settings.optim
        self.lessons = Lessons(settings, examples)
        self.optimizer = make_optimizer(parameter_groups(model.named_parameters(), optim), optim)
        self.figures = model.figures
        self.model: nn.Module = model.to(self.accelerator.device)  # not wrapped: see comem.training.ranks
        self.state = ckpt.read_state(resume) if resume else ckpt.RunState()
        if resume:
            ckpt.check_whole(resume)
            ckpt.load_optimizer(self.optimizer, resume / "optimizer.safetensors")
        self.trainable = [p for group in self.optimizer.param_groups for p in group["params"]]
        same_start(self.trainable)
        self.skipped = self.state.skipped if self.accelerator.is_main_process else 0
        self.read, self.unread, self.checked = self.state.step, 0, False  # who came so far has read some
        self.evaluated: Evaluated | None = None

    def run(self, progress: Progress = bar, evaluated: Evaluated | None = None) -> TrainResult:
        """Train to the end, or to the next interruption.

        Args:
            progress: shows how far it is.
            evaluated: is told of each evaluation, on the main process.

        Raises:
            Interrupted: on Ctrl-C or SIGTERM, after a checkpoint.
            NonFiniteLossError: on NaN; the last checkpoint stays.
            ValueError: an example that is longer than the model's context, after a checkpoint; or none of
                the first 100 questions can be read.
            StorageError: no space for a checkpoint or the log.
            ChildProcessError: a data worker was killed.
        """
        on_main(lambda: rewind_log(self.folder / "metrics.jsonl", self.state.step))
        self.evaluated = evaluated
        loss, started, before = math.nan, time.monotonic(), self.state.elapsed
        show = progress if self.accelerator.is_main_process else quiet
        with (
            _workers_alive(),
            Interrupt(self.folder) as interrupt,
            show("training", self.total, done=self.state.step, unit="steps") as advance,
            RunLog(self.settings, self.accelerator.is_main_process) as log,
            self.encoder.prepared,
            self.reader,
        ):
            for step, batches in self._saved_before_errors(self._steps()):
                if self._part(step) >= 1.0 and step > 0:
                    break
                row = self._step(step, batches)
                loss = row["loss"]
                now = before + time.monotonic() - started
                # the same on all processes
                elapsed, signal, wish = largest((now, interrupt.signal, interrupt.wants_save()))
                self.state = ckpt.RunState(step + 1, elapsed, skipped=self.skipped)
                log.write(row)
                advance(1, loss=loss)
                self._after_step(step + 1, log)
                if wish or signal:
                    self._save()
                if signal:
                    raise Interrupted(int(signal), self.state.step, self.folder)
            self._finish(log)
        return TrainResult(
            self.folder,
            self.folder / "checkpoints" / ckpt.step_name(self.state.step),
            self.state.step,
            self.state.elapsed,
            loss,
            self.state.metrics,
        )

    def _part(self, step: int) -> float:
        return run_part(step, self.total, self.state.elapsed, self.settings.max_seconds)

    def _steps(self) -> Iterator[tuple[int, list[TrainingBatch]]]:
        """The remaining steps with their micro-batches."""
        steps = Steps(
            self.examples,
            self.order,
            self.collator,
            self.settings.micro_batch_size,
            self.accelerator.process_index,
            self.accelerator.num_processes,
            alike=sharded(),
            lessons=self.lessons,
        )
        rest = range(self.state.step, self.total)
        loader = DataLoader(
            steps,
            batch_size=None,
            sampler=rest,
            num_workers=self.settings.workers,
            worker_init_fn=ignore_signals,
        )
        yield from zip(rest, loader, strict=True)

    def _saved_before_errors(
        self, steps: Iterable[tuple[int, list[TrainingBatch]]]
    ) -> Iterator[tuple[int, list[TrainingBatch]]]:
        """The steps; where one cannot be made (an example that is too long), what was trained is saved first.

        Not with several processes: the others would wait for a save that they know nothing of.
        """
        try:
            yield from steps
        except (ValueError, OSError):
            if self.accelerator.num_processes == 1 and self.state.step:
                self._save()
            raise

    def _step(self, step: int, batches: Iterable[TrainingBatch]) -> dict[str, float]:
        """One optimizer step; returns its log row."""
        began = time.monotonic()
        batches = [self._checked(batch) for batch in batches]
        torch.manual_seed(step_seed(self.settings.seed, step, self.accelerator.process_index))
        factor = lr_factor(self._part(step), self.settings.optim)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        self.model.train()
        loss, tokens = self._accumulate([batch for batch in batches if batch.rows])
        norm = nn.utils.clip_grad_norm_(self.trainable, self.settings.optim.clip)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            names = ", ".join(identifier for batch in batches for identifier in batch.ids)
            raise NonFiniteLossError(
                f"step {step + 1}: loss {float(loss)}, gradient norm {float(norm)}, batch of: {names}. "
                "The last checkpoint is untouched; look at these examples, or lower optim.lr, and run again"
            )
        if tokens:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.monotonic() - began
        row = {"loss": float(loss), "grad_norm": float(norm), "lr": self.settings.optim.lr * factor}
        row |= self.figures()
        return {"step": step + 1, **row, "tokens": tokens, "seconds": round(seconds, 4)}

    def _accumulate(self, batches: Sequence[TrainingBatch]) -> tuple[Tensor, int]:
        """Gradients of the mean over all answer tokens of the step, as they count; and that mean."""
        accelerator, device = self.accelerator, self.accelerator.device
        counts = [(batch.answer_tokens, batch.answer_weight) for batch in batches]
        own = torch.tensor([[0.0, 0.0], *counts], device=device).sum(0)
        found = accelerator.reduce(own, "sum").tolist()
        tokens, weight = int(found[0]), found[1]
        total = torch.zeros((), device=device)
        for batch in batches:
            with self._autocast():
                loss, _ = self.model(batch.to(device))
            (loss / (weight or 1)).backward()
            total += loss.detach()
        sum_gradients(self.trainable)
        return accelerator.reduce(total, "sum") / (weight or 1), tokens

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.half)

    def _checked(self, batch: TrainingBatch) -> TrainingBatch:
        """The batch, after saying what of it could not be read."""
        for message in batch.skipped:
            self.skipped += 1
            logger.warning("skipped (%d so far): %s", self.skipped, message)
        self.read += len(batch.ids)
        self.unread += sum(message.startswith("question ") for message in batch.skipped)
        if not self.read and self.unread >= min(_GIVE_UP, len(self.examples)):
            raise ValueError(
                f"none of the first {self.unread} questions can be read, the last because: "
                f"{batch.skipped[-1]}. Paths start at the data file's folder; `comem data check` lists all"
            )
        return batch

    def _after_step(self, step: int, log: RunLog) -> None:
        """Evaluate and save where it is due; the last step is `_finish`'s."""
        if step >= self.total:
            return
        every, evaluates = self.settings.save_every, self.settings.eval_every
        evaluated = bool(evaluates and step % evaluates == 0 and self.eval_examples)
        if evaluated:
            self._evaluate(log)
        if evaluated or (every and step % every == 0):
            self._save()

    def _finish(self, log: RunLog) -> None:
        """Evaluate, save the last checkpoint, sum up."""
        if self.state.finished:
            return
        if self.eval_examples:
            self._evaluate(log)
        own = torch.tensor(self.skipped, device=self.accelerator.device)
        skipped = int(self.accelerator.reduce(own, "sum"))
        self.state = replace(self.state, finished=True, skipped=skipped)
        self._save()
        if self.accelerator.is_main_process:
            ckpt.write_summary(self.folder, self.state)

    def _evaluate(self, log: RunLog) -> None:
        model = self.accelerator.unwrap_model(self.model)
        limit = self.settings.eval_examples
        with self._autocast():
            metrics = evaluate(
                model, self.backbone, self.collator, self.eval_examples[:limit], self.settings.batch_size,
                self.lessons.vectors(max(0, self.state.step - 1)),
            )  # fmt: skip
        self.state = replace(self.state, finished=False, metrics=metrics)
        log.write({"step": self.state.step, **metrics})
        if self.evaluated is not None and self.accelerator.is_main_process:
            self.evaluated(self.state.step, metrics)
        logger.info("step %d: %s", self.state.step, ", ".join(f"{k} {v:.4f}" for k, v in metrics.items()))

    def _save(self) -> None:
        """A checkpoint, written by the main process; the others wait for it, or for its error."""
        on_main(self._write_checkpoint)

    def _write_checkpoint(self) -> None:
        """The first one of each start is read back at once: a disk that fails shows before hours are lost."""
        folder = self.folder / "checkpoints"
        check = None if self.checked else lambda path: ckpt.compare(path, self.encoder, self.optimizer)
        ckpt.save_checkpoint(folder, self.state, self.optimizer, self.encoder.save, check)
        self.checked = True
        ckpt.keep_last(folder, self.settings.keep_last, also=ckpt.best(folder))
