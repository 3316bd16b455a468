"""Tensors of the simulated device, and what happens to them there.

Knows what CUDA allows and what it makes the host wait for; does not know who asks torch for a GPU.
"""

import copy
import sys
import warnings
from collections import Counter
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path

import torch
from simulated_kernels import KERNELS
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default, aten._foreach_copy_.default}
INDEXING = {
    *(aten.index.Tensor, aten.index_put_.default, aten.index_put.default),
    aten._index_put_impl_.default,
}
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_consecutive", "_unique2",
    "unique_dim", "bincount", "repeat_interleave", "_linalg_check_errors",
}  # fmt: skip


class Simulated(torch.Tensor):
    """A tensor of the device; `held` has its numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, device=CUDA,
        )  # fmt: skip
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function}: the simulated device is gone")

    def __repr__(self, **kwargs):
        return f"{self.held!r} on cuda:0"

    def data_ptr(self):
        return self.held.data_ptr()

    def untyped_storage(self):
        return self.held.untyped_storage()

    def numpy(self, *args, **kwargs):
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor "
            "to host memory first."
        )

    __array__ = numpy

    def tolist(self):
        return self.cpu().tolist()

    @property
    def data(self):
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, other):
        assert isinstance(other, Simulated), "on a GPU too this would change a weight's device"
        torch.Tensor.data.__set__(self, other)
        self.held = other.held

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            with torch.no_grad():
                made = self.detach().clone().requires_grad_(self.requires_grad)
            if self.grad is not None:
                made.grad = copy.deepcopy(self.grad, memo)
            vars(made).update({k: v for k, v in vars(self).items() if k != "held"})
            memo[id(self)] = made
        return memo[id(self)]

    def __reduce_ex__(self, protocol):
        return self.detach().cpu().requires_grad_(self.requires_grad).__reduce_ex__(protocol)


class Device(TorchDispatchMode):
    """What happens on the device.

    Attributes:
        waits: {what the host waited for, and in which file: how often}.
        sent: (what is copied from pinned memory without waiting, its version then).
    """

    def __init__(self):
        super().__init__()
        self.waits = Counter()
        self.paused = 0
        self.sync_debug_mode = "default"
        self._pinned = {}  # the storages, by their address: kept, so that none other has it
        self.sent = []
        self._coming = []  # (where what was copied without waiting will be, its numbers)
        self.generator = torch.Generator()

    def wait(self, what):
        """The host waits: all that was handed out is done."""
        for tensor, version in self.sent:
            assert tensor._version == version, "pinned memory was written to while it was copied"
        for tensor, numbers in self._coming:
            tensor.copy_(numbers)
        self.sent, self._coming = [], []
        frame = sys._getframe(1)
        while "/torch/" in frame.f_code.co_filename or "simulated_" in frame.f_code.co_filename:
            frame = frame.f_back
        if self.paused:
            return
        place = frame.f_code.co_filename
        self.waits[f"{what} in {Path(place).name}"] += 1
        if self.sync_debug_mode == "warn" and what != "synchronize":
            said = "called a synchronizing CUDA operation"
            warnings.warn_explicit(said, UserWarning, place, frame.f_lineno)

    @contextmanager
    def counting_no_waits(self):
        self.paused += 1
        yield
        self.paused -= 1

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [one for one in tree_iter((args, kwargs)) if isinstance(one, torch.Tensor)]
        here = any(isinstance(one, Simulated) for one in tensors)
        wanted = kwargs.get("device")
        to_device = here if wanted is None else torch.device(wanted).type == "cuda"
        if function is aten.is_pinned.default:
            return self._is_pinned(args[0])
        if function is aten._pin_memory.default:
            if here:
                raise RuntimeError("cannot pin: only dense CPU tensors can be pinned")
            pinned = args[0].clone()
            self._pinned[pinned.untyped_storage().data_ptr()] = pinned
            return pinned
        if not here and not to_device:
            return function(*args, **kwargs)  # on the CPU alone
        if _decomposes(function):
            with self:
                return function.decompose(*args, **kwargs)
        if function in COPIES:
            return self._copied(function, args, kwargs, to_device)
        _check_devices(function, args, tensors)
        if kwargs.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        self._wait_for(function, args)
        if to_device and wanted is not None:
            kwargs["device"] = "cpu"
        inner, named = _inner(args, kwargs)
        work = KERNELS.get(function, function)
        # quantile does not look at its q on a GPU
        quiet = self.counting_no_waits() if "quantile" in function.name() else nullcontext()
        own = torch.Tag.nondeterministic_seeded in function.tags
        with quiet, self._own_numbers() if own else nullcontext():
            out = work(*inner, **named)
        return _wrapped(out, args, kwargs, function) if to_device else out

    def _wait_for(self, function, args):
        """For a shape, or a number on the host; for indices that come from there."""
        name = function._schema.name.removeprefix("aten::")
        indices = args[1] if function in INDEXING else ()
        masked = any(
            one is not None and (one.dtype == torch.bool or not isinstance(one, Simulated))
            for one in indices
        )
        if name in WAITING or masked:
            self.wait(name)

    def _is_pinned(self, tensor):
        address = None if isinstance(tensor, Simulated) else tensor.untyped_storage().data_ptr()
        return address in self._pinned

    @contextmanager
    def _own_numbers(self):
        before = torch.get_rng_state()
        torch.set_rng_state(self.generator.get_state())
        yield
        self.generator.set_state(torch.get_rng_state())
        torch.set_rng_state(before)

    def _copied(self, function, args, kwargs, to_device):
        """Between the devices, or on one of them."""
        inner, named = _inner(args, kwargs)
        if function is aten._to_copy.default:
            later = kwargs.get("non_blocking", False)
            named["device"] = "cpu" if to_device else kwargs.get("device")
            if isinstance(args[0], Simulated) and not to_device:
                return self._copied_back(function(*inner, **named), later)
            self._sends(args[0], later)
            return Simulated(function(*inner, **named)) if to_device else function(*inner, **named)
        later = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        one_of_each = function is aten.copy_.default
        places, sources = ([args[0]], [args[1]]) if one_of_each else args[:2]
        function(*inner, **named)
        for place, source in zip(places, sources, strict=True):
            if isinstance(place, Simulated):
                self._sends(source, later)
            elif isinstance(source, Simulated):
                self._copied_back(place, later)
        return args[0] if one_of_each else None

    def _sends(self, source, later):
        if isinstance(source, Simulated) or not source.numel():
            return
        if later and self._is_pinned(source):
            self.sent.append((source, source._version))
        else:
            self.wait("copy to the device")

    def _copied_back(self, place, later):
        """On the CPU: at once, or when the host has waited for something."""
        if later:
            self._coming.append((place, place.clone()))
            place.fill_(float("nan") if place.is_floating_point() else -1)
        else:
            self.wait("copy to the CPU")
        return place


@cache
def _decomposes(function):
    return torch._C._dispatch_has_kernel_for_dispatch_key(
        function.name(), "CompositeImplicitAutograd"
    )


@cache
def _written(function):
    """(place, name) of the arguments that an operator writes to."""
    return [
        (place, argument.name)
        for place, argument in enumerate(function._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]


def _given(function, args, kwargs, place, name):
    return args[place] if place < len(args) else kwargs.get(name)


def _check_devices(function, args, tensors):
    """As CUDA does: numbers of the CPU only as a scalar, in what goes element by element."""
    if not any(isinstance(one, Simulated) for one in tensors):
        return
    if function in INDEXING:  # indices may lie on the CPU
        tensors = [one for one in (args[0], *args[2:]) if isinstance(one, torch.Tensor)]
    scalars = torch.Tag.pointwise in function.tags or "_foreach" in function.name()
    scalars = scalars or function in INDEXING
    for one in tensors:
        if not isinstance(one, Simulated) and (one.dim() or not scalars):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"cuda:0 and cpu! ({function}, {tuple(one.shape)})"
            )


def _inner(args, kwargs):
    return tree_map(lambda one: one.held if isinstance(one, Simulated) else one, (args, kwargs))


def _wrapped(out, args, kwargs, function):
    """What an operator gives; what it has written to is the tensor that was given."""
    written = _written(function)
    if torch.Tag.inplace_view in function.tags:
        with no_dispatch():  # the sizes of what is outside, which has no numbers
            before = torch._C._meta_in_tls_dispatch_include()
            torch._C._set_meta_in_tls_dispatch_include(True)
            try:
                function(*args, **kwargs)
            finally:
                torch._C._set_meta_in_tls_dispatch_include(before)
    for place, name in written:
        given = _given(function, args, kwargs, place, name)
        for one in tree_iter(given):
            if isinstance(one, Simulated):
                assert one.shape == one.held.shape, f"{function} has changed a shape"
            elif torch.is_tensor(one):
                raise RuntimeError(f"{function}: output with device cpu, inputs on cuda:0")
    if written and function._schema.returns and function._schema.returns[0].alias_info is not None:
        outs = [_given(function, args, kwargs, *one) for one in written]
        rest = list(out)[len(outs) :] if isinstance(out, tuple) else []
        rest = [Simulated(one) if torch.is_tensor(one) else one for one in rest]
        return (*outs, *rest) if isinstance(out, tuple) else outs[0]
    return tree_map(lambda one: Simulated(one) if torch.is_tensor(one) else one, out)
