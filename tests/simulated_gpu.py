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

import ctypes
import re
import sys
import traceback
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from accelerate.state import AcceleratorState
from command_line import TIMEOUT, forked
from simulated_kernels import as_triton
from simulated_tensors import CUDA, Device
from trl.kernels import chunked_logprob


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
    if _KEPT:
        return
    guards[CUDA_TYPE] = None  # a build for CUDA has one, of the real device
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
def simulated_gpu(capability=(9, 0), count=1, free=70 * GIB, total=80 * GIB):
    """Inside, torch sees so many GPUs; yields the first one, which all tensors lie on."""
    _make_device()
    device = Device()

    def seed(number=0):
        device.generator.manual_seed(number + 1)  # a GPU draws other numbers from the same seed

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
        "device_count": lambda: count,
        "current_device": lambda: 0,
        "set_device": lambda index: None,
        "synchronize": lambda *_: device.wait("synchronize"),
        "empty_cache": lambda: None,
        "memory_stats": lambda *_: {},
        "mem_get_info": lambda *_: (free, total),
        "get_device_name": lambda *_: "simulated",
        "get_device_capability": lambda *_: capability,
        "get_device_properties": lambda *_: properties,
        "is_bf16_supported": lambda including_emulation=True: (
            including_emulation or capability >= (8, 0)
        ),
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
        "set_sync_debug_mode": lambda mode: setattr(device, "sync_debug_mode", mode),
        **{
            name: lambda *_: 0
            for name in (
                *("memory_allocated", "memory_reserved", "max_memory_allocated"),
                *("max_memory_reserved", "reset_peak_memory_stats"),
            )
        },
    }
    in_random = [name for name in functions if hasattr(torch.cuda.random, name)]
    head = chunked_logprob
    with ExitStack() as stack:
        for name in ("_forward_tile", "_backward_tile"):
            stack.enter_context(patch.object(head, name, as_triton(getattr(head, name))))
        for name, function in functions.items():
            stack.enter_context(patch.object(torch.cuda, name, function, create=True))
        for name in in_random:
            stack.enter_context(patch.object(torch.cuda.random, name, functions[name]))
        waited = functions["synchronize"]
        stack.enter_context(patch.object(torch.accelerator, "synchronize", waited))
        _forget_devices()
        swapped = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swapped)
        stack.callback(_forget_devices)
        only = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, only)
        stack.enter_context(device)
        yield device


def _forget_devices():
    """What has looked for devices looks again."""
    AcceleratorState._reset_state(True)
    for name in ("transformers.utils.import_utils", "accelerate.utils.imports"):
        for function in vars(sys.modules[name]).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()


def in_process(work, *arguments):
    """What `work` gives in a process of its own, which has run no backward pass."""
    with TemporaryDirectory() as folder:
        found = Path(folder, "found")
        process = forked(_work, work, arguments, found)
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
