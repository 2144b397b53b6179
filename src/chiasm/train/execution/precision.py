"""Number formats of training: weights that are computed with in bf16 but kept in fp32."""

import copy
from collections.abc import Sequence

import torch

from chiasm.models.vision_language import VisionLanguageModel


class ComputeCopy:
    """The model that runs forward and backward: the fp32 model itself, or a bf16 copy of it.

    Pure bf16 weights beat autocast on a CPU, because autocast casts every weight at every use. The optimiser
    updates fp32 masters, so that small updates are not rounded away (Micikevicius et al. 2018, section 3.1); the
    temperature stays fp32 in the copy too.

    Args:
        master: holds the fp32 weights.
        dtype: number format to compute in; float32 makes no copy.
        names: parameters that are trained; all others get no gradient.
    """

    def __init__(self, master: VisionLanguageModel, dtype: torch.dtype, names: Sequence[str]) -> None:
        self.master = master
        self.dtype = dtype
        self.model = master if dtype is torch.float32 else copy.deepcopy(master).to(dtype)
        masters, copies = dict(master.named_parameters()), dict(self.model.named_parameters())
        self.pairs = [(masters[name], copies[name]) for name in names]
        for _, computed in self.pairs:
            if computed.ndim == 0:
                computed.data = computed.data.float()
        chosen = set(names)
        for name, computed in self.model.named_parameters():
            computed.requires_grad_(name in chosen)

    def gradients_to_master(self) -> None:
        """Move gradients of the copy to the fp32 parameters."""
        if self.model is self.master:
            return
        for kept, computed in self.pairs:
            kept.grad = None if computed.grad is None else computed.grad.to(kept.dtype)
            computed.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Round the masters into the copy after a step."""
        if self.model is not self.master:
            torch._foreach_copy_([computed for _, computed in self.pairs], [kept for kept, _ in self.pairs])
