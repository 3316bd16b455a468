"""A CUDA device made of a CPU: tensors that say they lie on it, and compute on the CPU.

What a GPU would refuse is refused: tensors of two devices in one operation, numpy of a GPU's
memory, a generator of the other device. Which code runs is a GPU's too: autocast, autograd's
threads, the branches on `is_cuda`. What waits for the device is counted, and what is copied to the
CPU without waiting is no number until something waits. Kernels that a CPU has not (attention over
rows of different lengths, sums in fp32 of half products) are computed from their formulas, after
their documented demands on the arguments are checked. Numbers are a CPU's, and there is one stream:
speed, memory and what kernels get wrong cannot be seen.

Only for a process that has not run a backward pass yet, and none of whose children will: autograd
makes its threads for the devices that it finds then. `in_process` is one.
"""

import copy
import ctypes
import re
import sys
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.nn.attention.varlen
import varlen_kernel
from command_line import FORKS, TIMEOUT
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

CUDA = torch.device("cuda", 0)
HALF = (torch.float16, torch.bfloat16)
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default, aten._foreach_copy_.default}
INDEXING = {
    *(aten.index.Tensor, aten.index_put_.default, aten.index_put.default),
    aten._index_put_impl_.default,
}
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_consecutive", "_unique2",
    "unique_dim", "bincount", "repeat_interleave",
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
        while "/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__:
            frame = frame.f_back
        if not self.paused:
            self.waits[f"{what} in {Path(frame.f_code.co_filename).name}"] += 1

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


def _addmm_in_fp32(sum_, one, other, out_dtype, *, beta=1, alpha=1, out=None):
    assert one.dtype == other.dtype
    assert one.dtype in HALF
    assert out_dtype == torch.float32 == sum_.dtype
    found = torch.addmm(sum_, one.float(), other.float(), beta=beta, alpha=alpha)
    return found if out is None else out.copy_(found)


def _varlen(query, key, value, starts, other, longest, _, is_causal, scale, window, shared, *rest):
    """torch's attention over joined rows, its demands checked."""
    assert not any(one is not None for one in rest)
    assert is_causal == (tuple(window) == (-1, 0))
    for one in (query, key, value):
        assert one.dtype in HALF
        assert one.dtype == query.dtype
        assert one.stride(-1) == 1
        assert one.shape[-1] <= 256
        assert one.shape[-1] % 8 == 0
    assert starts.is_contiguous()
    out = varlen_kernel.kernel(
        query, key, value, starts, other, longest, longest, scale=scale,
        window_size=tuple(window), enable_gqa=shared,
    )  # fmt: skip
    return (
        out,
        query.new_zeros(query.shape[1], len(query), dtype=torch.float32),
        starts.new_zeros(2),
    )


def _varlen_backward(
    direction, query, key, value, out, sums, starts, other, longest, _, causal, state, scale, window
):
    assert direction.shape == query.shape
    shared = query.shape[1] != key.shape[1]

    def gradients():
        states = [one.detach().requires_grad_() for one in (query, key, value)]
        bounds = (starts, other, longest, longest)
        made, *_ = _varlen(*states, *bounds, causal, scale, window, shared)
        return torch.autograd.grad(made, states, direction)

    # Inside of an operator nothing is differentiated; in another thread it is.
    with ThreadPoolExecutor(1) as other_thread:
        return other_thread.submit(gradients).result()


KERNELS = {
    aten.addmm.dtype: _addmm_in_fp32,
    aten.addmm.dtype_out: _addmm_in_fp32,
}


class _Anything:
    """A stream, or an event."""

    def __init__(self, *args, **kwargs):
        self.device, self.device_index, self.stream_id = CUDA, 0, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: 0.0


def _virtual_methods(header):
    """The names of a class's methods in the order of its table, from torch's own header."""
    text = (Path(torch.__file__).parent / "include" / header).read_text()
    return re.findall(r"virtual (?:const )?[\w:&* <>]*?(\w+)\(", re.sub(r"virtual ~\w+", "", text))


def _make_device():
    """Let C++ see a device: the guard that torch has for fake tensors, and hooks that say so.

    Both are objects with a table of methods. The guard takes the place of one that has no device; a
    CPU build has none at all, so there is one for a moment whose every method returns 0.
    """
    folder = Path(torch.__file__).parent / "lib"
    guards = (ctypes.c_void_p * 2).in_dll(
        ctypes.CDLL(str(folder / "libc10.so")), "_ZN3c104impl26device_guard_impl_registryE"
    )
    if guards[CUDA_TYPE] is not None:
        return
    numbers = [ctypes.CFUNCTYPE(ctypes.c_int)(lambda number=number: number) for number in (0, 1)]
    zero, one = (ctypes.cast(number, ctypes.c_void_p).value for number in numbers)
    methods = (ctypes.c_void_p * 64)(*[zero] * 64)
    empty = ctypes.c_void_p(ctypes.addressof(methods))
    guards[CUDA_TYPE] = ctypes.addressof(empty)
    torch._C._ensureCUDADeviceGuardSet()
    assert guards[CUDA_TYPE] != ctypes.addressof(empty)
    get_hooks = ctypes.CDLL(str(folder / "libtorch_cpu.so"))._ZN2at6detail12getCUDAHooksEv
    get_hooks.restype = ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p))
    hooks = get_hooks()
    names = ["destroy", "delete", *_virtual_methods("ATen/detail/AcceleratorHooksInterface.h")]
    names += _virtual_methods("ATen/detail/CUDAHooksInterface.h")
    table = (ctypes.c_void_p * len(names))(*hooks[0][: len(names)])
    for name in ("isBuilt", "isAvailable", "deviceCount"):
        table[names.index(name)] = one
    for name in ("hasPrimaryContext", "setCurrentDevice", "getCurrentDevice", "exchangeDevice"):
        table[names.index(name)] = zero
    hooks[0] = ctypes.cast(table, ctypes.POINTER(ctypes.c_void_p))
    _KEPT.extend([numbers, table])


_KEPT = []  # what C++ points to
CUDA_TYPE = 1  # in c10::DeviceType
GIB = 2**30


@contextmanager
def simulated_gpu(capability=(9, 0), free=70 * GIB, total=80 * GIB):
    """Inside, torch has a GPU; yields the `Device`."""
    import accelerate.state

    _make_device()
    device = Device()

    def seed(number=0):
        device.generator.manual_seed(number)

    properties = SimpleNamespace(
        name="simulated", major=capability[0], minor=capability[1], total_memory=total,
        multi_processor_count=1, gcnArchName="",
    )  # fmt: skip
    functions = {
        "_lazy_init": lambda: None,
        "_initialized": True,
        "_exchange_device": lambda index: 0,
        "_maybe_exchange_device": lambda index: 0,
        "is_initialized": lambda: True,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda index: None,
        "synchronize": lambda *_: device.wait("synchronize"),
        "empty_cache": lambda: None,
        "mem_get_info": lambda *_: (free, total),
        "get_device_name": lambda *_: "simulated",
        "get_device_capability": lambda *_: capability,
        "get_device_properties": lambda *_: properties,
        "is_bf16_supported": lambda including_emulation=True: capability >= (8, 0),
        "manual_seed": seed,
        "manual_seed_all": seed,
        "get_rng_state": lambda *_: device.generator.get_state(),
        "get_rng_state_all": lambda: [device.generator.get_state()],
        "set_rng_state": lambda state, *_: device.generator.set_state(state.cpu()),
        "set_rng_state_all": lambda states: device.generator.set_state(states[0].cpu()),
        "current_stream": _Anything,
        "default_stream": _Anything,
        "Stream": _Anything,
        "Event": _Anything,
        "stream": _Anything,
        "set_sync_debug_mode": lambda mode: None,
        **{
            name: lambda *_: 0
            for name in (
                *("memory_allocated", "memory_reserved", "max_memory_allocated"),
                *("max_memory_reserved", "reset_peak_memory_stats"),
            )
        },
    }
    in_random = [name for name in functions if hasattr(torch.cuda.random, name)]
    varlen = torch.ops.torch_attn
    with ExitStack() as stack:
        kernels = {
            varlen._varlen_attn.default: _varlen,
            varlen._varlen_attn_backward.default: _varlen_backward,
        }
        stack.enter_context(patch.dict(KERNELS, kernels))
        for name, function in functions.items():
            stack.enter_context(patch.object(torch.cuda, name, function, create=True))
        for name in in_random:
            stack.enter_context(patch.object(torch.cuda.random, name, functions[name]))
        waited = functions["synchronize"]
        stack.enter_context(patch.object(torch.accelerator, "synchronize", waited))
        _forget_devices(accelerate.state)
        swapped = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swapped)
        stack.callback(_forget_devices, accelerate.state)
        only = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, only)
        stack.enter_context(device)
        yield device


def _forget_devices(state):
    """What has looked for devices looks again."""
    state.AcceleratorState._reset_state(True)
    for module in list(sys.modules.values()):
        if (getattr(module, "__name__", "") or "").startswith(
            ("transformers.utils.import_utils", "accelerate.utils.imports")
        ):
            for function in vars(module).values():
                if hasattr(function, "cache_clear"):
                    function.cache_clear()


def in_process(work, *arguments):
    """What `work` gives in a process of its own, which has run no backward pass."""
    with TemporaryDirectory() as folder:
        found = Path(folder, "found")
        process = FORKS.Process(target=_work, args=(work, arguments, found))
        process.start()
        process.join(TIMEOUT)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"not done after {TIMEOUT} s")
        assert found.exists(), f"the process ended with {process.exitcode}"
        result, error = torch.load(found, weights_only=False)
    if error is not None:
        pytest.fail(error)
    return result


def _work(work, arguments, file):
    torch.set_num_threads(1)
    try:
        done = (work(*arguments), None)
    except BaseException:
        done = (None, traceback.format_exc())
    torch.save(done, file)
