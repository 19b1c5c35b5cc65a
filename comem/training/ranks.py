"""Several processes as one: what only the main one does, and what all have to agree on.

Gradients are summed by a few large all-reduces when the step's last micro-batch is done, not by
DistributedDataParallel during the backward pass. Its reducer waits for every parameter on every process:
a process without an example in the last step of a pass, or with items that have no image (the vision
tower's LoRA gets no gradient), would let the others wait for ever. What is trained is small, 0.9 GB in
float32 at 7B, so there is next to nothing to overlap.

What goes from process to process is JSON and plain tensors; nothing is unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

_BUCKET = 1 << 25  # numbers, 128 MiB in float32
# accelerate's settings of FSDP that would do nothing here, or harm; and what to do instead
_FSDP_OFF = {
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "every process reads the weights itself",
    "FSDP_OFFLOAD_PARAMS": "offloading is not supported; use more GPUs",
    "FSDP_ACTIVATION_CHECKPOINTING": "set the run's own checkpointing=true, which knows LoRA's state",
}


class MainProcessError(ValueError):
    """The main process failed with this message; raised on the others, so that none waits for it."""


def state() -> PartialState:
    """The process group, joined on the first call: NCCL, or gloo where the launcher finds no accelerator."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not (alone or torch.accelerator.is_available())
    return PartialState(cpu=cpu)


def use_bf16(precision: str) -> bool:
    """Whether to compute in bf16: on a GPU that can, unless the settings say otherwise."""
    if precision == "auto":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return precision == "bf16"


def several() -> bool:
    """Whether there is more than one process."""
    return bool(state().num_processes > 1)


def on_main(action: Callable[[], Any]) -> Any:
    """Run `action` on the main process alone; all wait for it and get its result.

    Args:
        action: gives something that JSON can hold.

    Raises:
        MainProcessError: on the other processes, whatever was raised on the main one.
    """
    if not several():
        return action()
    if not state().is_main_process:
        told = _broadcast(None)
        if "error" in told:
            raise MainProcessError(told["error"])
        return told["result"]
    try:
        result = action()
    except BaseException as error:
        _broadcast({"error": str(error) or type(error).__name__})
        raise
    _broadcast({"result": result})
    return result


def _broadcast(value: Any) -> Any:
    """The main process's value on all processes, as JSON in a byte tensor."""
    device = state().device
    data = list(json.dumps(value).encode())
    length = torch.tensor(len(data), device=device)
    dist.broadcast(length, 0)
    if not state().is_main_process:
        data = [0] * int(length)
    text = torch.tensor(data, dtype=torch.uint8, device=device)
    dist.broadcast(text, 0)
    return json.loads(bytes(text.tolist()))


def largest(values: Sequence[float]) -> list[float]:
    """Each value's maximum over all processes: signals, wishes and clocks that all must act on alike."""
    if not several():
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=state().device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum every gradient over the processes; one that is missing counts as zero and is there afterwards.

    Also with one process, so that AdamW does the same whatever the number of processes is.
    """
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    if several():
        for bucket in _buckets(gradients):
            summed = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(summed)
            parts = summed.split([g.numel() for g in bucket])  # type: ignore[no-untyped-call]
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


def _buckets(gradients: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Gradients of one type, as many as one message holds: hundreds of small ones would cost a trip each."""
    bucket: list[torch.Tensor] = []
    for gradient in gradients:
        size = sum(held.numel() for held in bucket) + gradient.numel()
        if bucket and (size > _BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def same_start(parameters: Iterable[nn.Parameter]) -> None:
    """Give all processes the main one's weights."""
    if several():
        for parameter in parameters:
            dist.broadcast(parameter.data, 0)


def check_launch() -> None:
    """Refuse what this loop does not do.

    Raises:
        ValueError: accelerate was told to use DeepSpeed, Megatron-LM or FSDP 1, or FSDP with settings that
            are not followed; or the processes do not know of each other.
    """
    for kind in ("DEEPSPEED", "MEGATRON_LM"):
        if parse_flag_from_env(f"ACCELERATE_USE_{kind}"):
            raise ValueError(
                f"accelerate is set to {kind}; known here: one process, MULTI_GPU, MULTI_CPU, FSDP 2. "
                "For a base that one GPU holds use configs/accelerate/multi_gpu.yaml; in place of ZeRO-3 "
                "configs/accelerate/fsdp2.yaml, of ZeRO-2 configs/accelerate/fsdp2_zero2.yaml"
            )
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        _check_fsdp()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != state().num_processes:
        raise ValueError(
            f"WORLD_SIZE={world}, but accelerate sees {state().num_processes} process(es): each would train "
            "alone. Start them with accelerate launch --multi_gpu or torchrun, and train once a process"
        )


def _check_fsdp() -> None:
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise ValueError(f"fsdp_version={version}; known: 2. Use configs/accelerate/fsdp2.yaml")
    for name, remedy in _FSDP_OFF.items():
        if parse_flag_from_env(name):
            raise ValueError(
                f"{name.lower()} is true in accelerate's config; set it to false: {remedy}. "
                "configs/accelerate/fsdp2.yaml is one that works"
            )


def sharded() -> bool:
    """Whether accelerate was told to shard the base, and there is more than one process."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP") and several()


def shard(model: nn.Module) -> None:
    """Shard the frozen weights of a transformers model's layers over all processes, in place.

    Call it after `add_lora` and `enable_checkpointing`. The weights may be on the CPU: layer after layer
    goes to the process's device, then what stays whole. accelerate's `fsdp_reshard_after_forward` says
    whether a layer is freed after its forward pass (true: as ZeRO-3) or kept for the backward pass (false:
    as ZeRO-2).

    Raises:
        ValueError: the weights are quantised.
    """
    if getattr(model, "is_quantized", False):
        raise ValueError(
            "the base is quantised, and FSDP shards ordinary weights only: leave quantization empty, or "
            "train with whole bases (configs/accelerate/multi_gpu.yaml)"
        )
    network: Any = model
    mesh = init_device_mesh(state().device.type, (state().num_processes,))
    free = parse_flag_from_env("FSDP_RESHARD_AFTER_FORWARD", default=True)
    trained = {p for p in model.parameters() if p.requires_grad}
    for layer in sharded_layers(model):
        fully_shard(layer, mesh=mesh, reshard_after_forward=free, ignored_params=trained)
    # around the layers, so that the next one is gathered while this one computes; it holds no weights itself
    fully_shard(network.base_model, mesh=mesh, ignored_params=_whole(model))
    model.to(state().device)
    network._is_fsdp_managed_module = True  # transformers' generate then waits for the slowest process


def sharded_layers(model: nn.Module) -> list[nn.Module]:
    """Decoder layers and vision blocks: what transformers, too, keeps on one device (`_no_split_modules`)."""
    names = set(model._no_split_modules)  # type: ignore[arg-type]
    return [module for module in model.modules() if type(module).__name__ in names]


def _whole(model: nn.Module) -> set[nn.Parameter]:
    """The parameters that are not in pieces."""
    return {parameter for parameter in model.parameters() if not isinstance(parameter, DTensor)}
