"""Faster kernels for what a transformers model does between its matrix products, set on its own modules.

RMSNorm as one kernel of torch is always there (`comem.backbones.prepared`). Liger's Triton kernels (optional,
https://github.com/linkedin/Liger-Kernel) also fuse the gated MLP. Values are the same up to rounding.
"""

from __future__ import annotations

from importlib import import_module

import torch
from torch import nn

from comem.backbones.specs import BackboneError


def apply_liger(model: nn.Module) -> None:
    """Liger's kernels for RMSNorm and the gated MLP, by Liger's own function for the model's family.

    Its loss is left out, ours takes the answer tokens alone (`comem.training.model.answer_loss`), and so is
    its rotary embedding, which is not patched into this model but into transformers. (The function also
    changes the classes from which later models of this process would be built.)

    Raises:
        BackboneError: no package, no GPU, or a family that Liger does not know.
    """
    kind = str(model.config.model_type)  # type: ignore[union-attr]
    try:
        patch = getattr(import_module("liger_kernel.transformers"), f"apply_liger_kernel_to_{kind}")
    except ImportError as error:
        raise BackboneError("liger=true needs the package: pip install liger-kernel") from error
    except AttributeError as error:
        raise BackboneError(f"liger=true: Liger has no kernels for {kind}; set liger=false") from error
    if not torch.cuda.is_available():
        raise BackboneError("liger=true needs a CUDA device: its kernels are Triton's; set liger=false")
    off = dict.fromkeys(("rope", "cross_entropy", "fused_linear_cross_entropy"), False)
    patch(**off, model=model)
