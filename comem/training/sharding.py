"""FSDP2: the frozen base in pieces, one on each process, for bases that no GPU holds whole.

Each decoder layer and vision block is one piece of work for torch's `fully_shard`: gathered from all
processes just before it is used, freed just after. Everything else stays whole on every process: embeddings,
output layer and merger (5 GB in bf16 at 72B), and what is trained, LoRA and Q-Former, whose gradients
`comem.training.ranks` sums. So checkpoints are the same files, whatever the launch was.

The processes have to use the layers in step: see `comem.training.alike` for training; in generation
transformers keeps them so (`synced_gpus`).
"""

from __future__ import annotations

from typing import Any

from accelerate.utils import parse_flag_from_env
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from comem.memory.fingerprint import keep_base_digest
from comem.training.ranks import several, state


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
    keep_base_digest(model)
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
