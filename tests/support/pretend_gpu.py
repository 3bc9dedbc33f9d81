"""A GPU where there is none: tensors that say they are on it, are computed on the CPU, and refuse what a GPU refuses.

It finds what is forgotten on the other device, and lets the paths run that only a GPU takes. It has no random numbers,
rounding or memory of its own, and knows nothing of speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch as th
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

CPU, CUDA = th.device("cpu"), th.device("cuda", 0)
# Operations between the two devices; the last three are those of `Module.cuda`.
BETWEEN = ("copy_", "__setitem__", "_has_compatible_shallow_copy_type", "_swap_tensor_impl", "__set__")


class CudaTensor(Tensor):
    """Marks what is on the pretended GPU."""


class PretendedGPU(TorchFunctionMode):
    """Sees every call of torch. A result is where its operands are, or where `device` says."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, first = dict(kwargs or {}), args[0] if args else None
        name = func.__name__
        with th._C.DisableTorchFunctionSubclass():
            if name == "__get__" and (answer := _where(func, first)) is not None:
                return answer
            if func is Tensor.cuda:
                return _moved(first, CUDA)
            if func is Tensor.cpu:
                return _moved(first, CPU)
            if func is Tensor.to:
                return _to(first, *args[1:], **kwargs)
            if name in ("numpy", "__array__") and isinstance(first, CudaTensor):
                if not kwargs.get("force"):
                    raise TypeError("can't convert cuda:0 device type tensor to numpy")
                return _moved(first, CPU).numpy(force=True)
            tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            _refuse_mixed(name, tensors)
            there = any(isinstance(x, CudaTensor) for x in tensors[: 1 if name in BETWEEN else None])
            if kwargs.get("device") is not None:
                there = th.device(kwargs["device"]).type == "cuda"
                kwargs["device"] = CPU
            result = func(*args, **kwargs)
        return tree_map_only(Tensor, _marked, result) if there else result


def _where(func: Any, x: Any) -> th.device | bool | None:
    """Of the attributes that say where a tensor is; None of any other."""
    there = isinstance(x, CudaTensor)
    if func == Tensor.device.__get__:
        return CUDA if there else CPU
    if func == Tensor.is_cuda.__get__:
        return there
    return None


def _marked(x: Tensor) -> Tensor:
    return x if isinstance(x, CudaTensor) else x.as_subclass(CudaTensor)


def _moved(x: Tensor, device: th.device) -> Tensor:
    """On the device: a copy, or itself where it is there."""
    if isinstance(x, CudaTensor) == (device.type == "cuda"):
        return x
    return x.clone().as_subclass(CudaTensor if device.type == "cuda" else Tensor)


def _to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to` with a device, a dtype, another tensor, or the first two."""
    device = kwargs.pop("device", None)
    rest = []
    for arg in args:
        if isinstance(arg, (str, th.device)):
            device = arg
        elif isinstance(arg, Tensor):
            device = CUDA if isinstance(arg, CudaTensor) else CPU
            rest.append(arg.dtype)
        else:
            rest.append(arg)
    kept = x.to(*rest, **kwargs) if rest or kwargs.keys() - {"non_blocking"} else x
    kept = _marked(kept) if isinstance(x, CudaTensor) else kept
    return kept if device is None else _moved(kept, th.device(device))


def _refuse_mixed(name: str, tensors: list[Tensor]) -> None:
    """A GPU takes numbers (tensors without dimensions) of the CPU, and indices; the CPU takes nothing of a GPU."""
    if name in BETWEEN or len({isinstance(x, CudaTensor) for x in tensors}) < 2:
        return
    if name == "__getitem__" and isinstance(tensors[0], CudaTensor):
        return
    if any(x.dim() for x in tensors if not isinstance(x, CudaTensor)):
        where = ", ".join(f"{tuple(x.shape)} on {'cuda' if isinstance(x, CudaTensor) else 'cpu'}" for x in tensors)
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, found {where}")


@contextmanager
def pretended_gpu() -> Iterator[None]:
    """Within, `th.cuda.is_available()` and all that is moved to "cuda" is a CudaTensor."""
    future, numbers = th.__future__, {"get_rng_state": th.get_rng_state, "set_rng_state": th.set_rng_state}
    swapped = future.get_swap_module_params_on_conversion()
    future.set_swap_module_params_on_conversion(True)  # parameters stay the same objects, as on a real GPU
    try:
        with (
            mock.patch.multiple(th.cuda, is_available=lambda: True, **numbers),
            mock.patch.object(th.backends.cudnn, "is_acceptable", lambda _: False),
            PretendedGPU(),
        ):
            yield
    finally:
        future.set_swap_module_params_on_conversion(swapped)
