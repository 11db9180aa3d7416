"""A device for tests on machines without a GPU: it computes what the processor does, and refuses tensors of both together.

A Python backend of torch. What a tensor there holds is a tensor with the processor, found by its storage; every operation is done
with those. Importing this file registers the device for the rest of the process.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import transformers.modeling_utils
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "elsewhere"
CPU = torch.device("cpu")
HELD: dict[int, Tensor] = {}
"""What a storage there stands for."""
VIEWS = (
    "_reshape_alias",
    "_unsafe_view",
    "diagonal",
    "expand",
    "permute",
    "select.int",
    "slice.Tensor",
    "split.Tensor",
    "split_with_sizes",
    "squeeze",
    "squeeze.dim",
    "squeeze.dims",
    "t",
    "transpose.int",
    "unbind.int",
    "unfold",
    "unsqueeze",
    "view_as_complex",
    "view_as_real",
)
"""Operations that torch does to shapes alone, which would leave what is held behind."""
ALIASES = {name.partition(".")[0] for name in VIEWS} | {"as_strided", "view"}


class Backend(_DummyBackendModule):
    """What torch asks of a kind of processor."""

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16]


def there(x: Tensor) -> Tensor:
    """A tensor there that stands for one with the processor."""
    found: Tensor = torch._C._acc.create_empty_tensor(x.shape, x.dtype)
    HELD[found.untyped_storage()._cdata] = x
    return found


def compute(op: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation there, by what its tensors stand for."""
    given: dict[int, tuple[Tensor, Tensor]] = {}
    places = set()

    def here(x: Any) -> Any:
        if isinstance(x, torch.device):
            places.add(NAME)
            return CPU
        if not isinstance(x, Tensor):
            return x
        own = HELD[x.untyped_storage()._cdata] if x.device.type == NAME else x
        if x.dim() or x.device.type == NAME:  # a number goes with either, as on a GPU
            places.add(x.device.type)
        given[id(own)] = own, x
        return own

    inside, named = tree_map(here, (args, kwargs))
    name = op.name().removeprefix("aten::").partition(".")[0]
    if name == "_copy_from":
        inside[1].copy_(inside[0])
        return args[1]
    assert len(places) == 1 or name in ("copy_", "_to_copy"), f"{op} is given tensors of {' and '.join(sorted(places))}"
    # What is there is contiguous for torch, what it stands for may not be.
    found = inside[0].reshape(inside[1]) if name == "view" else op.overloadpacket(*inside, **named)
    for own, x in given.values():
        if x.device.type == NAME and own.shape != x.shape:  # what was to hold an outcome has its size only now
            x.data = there(own)
    # A view is for inference if what it is of is, whatever the mode that it is taken in.
    inference = args[0].is_inference() if name in ALIASES else torch.is_inference_mode_enabled()
    with torch.inference_mode(inference):
        return tree_map(
            lambda x: (given[id(x)][1] if id(x) in given else there(x)) if isinstance(x, Tensor) else x, found
        )


def _copied(x: Tensor, memo: dict[int, Any]) -> Tensor:
    if x.device.type != NAME:
        return _deepcopy(x, memo)
    memo[id(x)] = x.detach().clone()
    return memo[id(x)]


def _moved(model: Any, *args: Any, **kwargs: Any) -> Any:
    moved = _to(model, *args, **kwargs)
    model.tie_weights()  # parameters are made anew for another kind of backend, unlike for a GPU
    return moved


_deepcopy, _to = Tensor.__deepcopy__, transformers.modeling_utils.PreTrainedModel.to
transformers.modeling_utils.PreTrainedModel.to = _moved
Tensor.__deepcopy__ = _copied  # type: ignore[method-assign]  # by the bytes of a storage, which has none there
transformers.modeling_utils.id_tensor_storage = lambda x: (x.device, x.untyped_storage()._cdata, x.nbytes)

_setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
_everything, _aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
_everything.fallback(compute, "PrivateUse1")
for _view in VIEWS:
    _packet, _, _overload = _view.partition(".")
    _aten.impl(
        _view, partial(compute, getattr(getattr(torch.ops.aten, _packet), _overload or "default")), "PrivateUse1"
    )
_aten.impl("_conj", partial(compute, torch.ops.aten.conj_physical.default), "PrivateUse1")
