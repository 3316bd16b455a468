"""The filter of system calls, for each machine, by an interpreter of our own."""

import re
import struct
from pathlib import Path

import pytest

from talr_cli.evaluation.sandbox.calls import MACHINES, allowed, call_filter

ALLOW = 0x7FFF0000
NO_CALL, NO_PERMISSION, NO_FAMILY, NO_TERMINAL = (0x00050000 | error for error in (38, 1, 97, 25))
NUMBERS = {  # of openat, clone, socket, ioctl, keyctl, unshare, clone3
    "x86_64": (257, 56, 41, 16, 250, 272, 435),
    "aarch64": (56, 220, 198, 29, 219, 97, 435),
}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def answer(code, architecture, number, *arguments):
    """What classic BPF returns for struct seccomp_data, see linux/bpf_common.h."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    place, held = 0, 0
    while True:
        kind, if_true, if_false, value = struct.unpack_from("HBBI", code, 8 * place)
        place += 1
        if kind == 0x06:
            return value
        if kind == 0x20:
            (held,) = struct.unpack_from("=I", data, value)
        elif kind == 0x54:
            held &= value
        else:
            holds = {0x15: held == value, 0x25: held > value, 0x35: held >= value}[kind]
            place += if_true if holds else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_answers_each_system_call_as_intended(machine):
    code, architecture = call_filter(machine), MACHINES[machine]
    openat, clone, socket, ioctl, keyctl, unshare, clone3 = NUMBERS[machine]

    def said(number, *arguments):
        return answer(code, architecture, number, *arguments)

    assert said(openat) == ALLOW
    assert {said(number) for number in (keyctl, unshare, clone3)} == {NO_CALL}
    assert said(clone, 0x3D0F00) == ALLOW  # a thread's flags
    assert said(clone, 0x10000011) == said(clone, 0x3D0F00 | 0x20000) == NO_PERMISSION
    assert said(socket, 1) == ALLOW
    assert said(socket, 2) == said(socket, 40) == said(socket, 16) == NO_FAMILY
    assert said(ioctl, 1, 0x5401) == ALLOW
    assert said(ioctl, 1, 0x5412) == NO_TERMINAL  # TIOCSTI: types into the caller's terminal
    # The kernel reads the low half alone of such an argument, so has the filter to.
    assert said(socket, 1 << 32 | 2) == NO_FAMILY
    assert said(ioctl, 1, 1 << 32 | 0x5412) == NO_TERMINAL
    others = {0x40000003, *MACHINES.values()} - {architecture}  # i386 and the other machine
    assert {answer(code, other, openat) for other in others} == {NO_CALL}
    assert {number for number in range(-9, 1000) if said(number, 1, 0x5401, 2) == ALLOW} == {
        *allowed(machine).values()
    }


@pytest.mark.parametrize("machine", MACHINES)
def test_call_numbers_are_those_of_the_kernels_headers(machine):
    if not HEADERS[machine].exists():
        pytest.skip("no headers of the kernel here")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\s", HEADERS[machine].read_text())
    theirs = {name: int(number) for name, number in found}
    theirs["newfstatat"] = theirs.get("newfstatat", theirs.get("fstatat"))
    ours = allowed(machine)
    assert ours == {name: theirs[name] for name in ours}
    missing = {*allowed("x86_64")} - {*ours}
    assert not missing & {*theirs}
