"""Which system calls a sandboxed program may make: those that Python's own library needs.

It is a seccomp(2) filter for x86_64 and aarch64, which looks at the number of a call and at one
plain argument at most, never at memory. Any other call fails as if the kernel did not have it: new
namespaces, mounts, keys, tracing, other processes' memory, io_uring, BPF, performance counters,
shared memory outside of a folder (System V, memfd), message queues, clone3 (the C library then uses
clone, whose flags are visible), and all calls of the 32-bit and x32 interfaces.
"""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Iterable

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*

# Each call's name with its number on x86_64 and on aarch64, as in Linux's asm/unistd.h.
_ALLOWED = """
files:
open 2 -, openat 257 56, creat 85 -, read 0 63, write 1 64, readv 19 65, writev 20 66,
pread64 17 67, pwrite64 18 68, preadv 295 69, pwritev 296 70, preadv2 327 286,
pwritev2 328 287, close 3 57, close_range 436 436, lseek 8 62, sendfile 40 71,
copy_file_range 326 285, stat 4 -, fstat 5 80, lstat 6 -, newfstatat 262 79, statx 332 291,
statfs 137 43, fstatfs 138 44, access 21 -, faccessat 269 48, faccessat2 439 439,
readlink 89 -, readlinkat 267 78, getdents 78 -, getdents64 217 61, getcwd 79 17, chdir 80 49,
fchdir 81 50, umask 95 166, rename 82 -, renameat 264 38, renameat2 316 276, mkdir 83 -,
mkdirat 258 34, rmdir 84 -, link 86 -, linkat 265 37, unlink 87 -, unlinkat 263 35,
symlink 88 -, symlinkat 266 36, mknod 133 -, mknodat 259 33, chmod 90 -, fchmod 91 52,
fchmodat 268 53, chown 92 -, fchown 93 55, lchown 94 -, fchownat 260 54, utime 132 -,
utimes 235 -, futimesat 261 -, utimensat 280 88, truncate 76 45, ftruncate 77 46,
fallocate 285 47, fadvise64 221 223, flock 73 32, fsync 74 82, fdatasync 75 83, fcntl 72 25,
dup 32 23, dup2 33 -, dup3 292 24, ioctl 16 29
memory:
brk 12 214, mmap 9 222, munmap 11 215, mremap 25 216, mprotect 10 226, msync 26 227,
madvise 28 233
processes:
fork 57 -, vfork 58 -, clone 56 220, execve 59 221, exit 60 93, exit_group 231 94,
wait4 61 260, waitid 247 95, kill 62 129, tkill 200 130, tgkill 234 131, pidfd_open 434 434,
pidfd_send_signal 424 424, getpid 39 172, getppid 110 173, gettid 186 178, getpgid 121 155,
setpgid 109 154, getpgrp 111 -, getsid 124 156, setsid 112 157, getuid 102 174,
geteuid 107 175, getgid 104 176, getegid 108 177, getresuid 118 148, getresgid 120 150,
getgroups 115 158, prctl 157 167, arch_prctl 158 -, futex 202 98, set_robust_list 273 99,
set_tid_address 218 96, rseq 334 293, getrlimit 97 163, setrlimit 160 164, prlimit64 302 261,
getrusage 98 165, times 100 153, getpriority 140 141, setpriority 141 140, sched_yield 24 124,
sched_getaffinity 204 123, sched_getparam 143 121, sched_getscheduler 145 120,
sched_get_priority_max 146 125, sched_get_priority_min 147 126, sched_rr_get_interval 148 127
signals and time:
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136,
rt_sigsuspend 130 133, rt_sigtimedwait 128 137, sigaltstack 131 132, restart_syscall 219 128,
pause 34 -, alarm 37 -, getitimer 36 102, setitimer 38 103, nanosleep 35 101,
clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169,
time 201 -, timerfd_create 283 85, timerfd_settime 286 86, timerfd_gettime 287 87
pipes, sockets:
pipe 22 -, pipe2 293 59, poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72,
epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -,
epoll_pwait 281 22, eventfd 284 -, eventfd2 290 19, socket 41 198, socketpair 53 199,
bind 49 200, listen 50 201, accept 43 202, accept4 288 242, connect 42 203, shutdown 48 210,
sendto 44 206, sendmsg 46 211, recvfrom 45 207, recvmsg 47 212, getsockname 51 204,
getpeername 52 205, getsockopt 55 209, setsockopt 54 208
machine:
uname 63 160, sysinfo 99 179, getcpu 309 168, getrandom 318 278
"""
# Copying a file with its metadata tries these; it accepts that a file system does not support them.
_NOT_SUPPORTED = """
setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7, getxattr 191 8, lgetxattr 192 9,
fgetxattr 193 10, listxattr 194 11, llistxattr 195 12, flistxattr 196 13, removexattr 197 14,
lremovexattr 198 15, fremovexattr 199 16
"""
# call -> which argument, its allowed values, the error for any other
_ONLY = {
    "socket": (0, (1,), errno.EAFNOSUPPORT),  # AF_UNIX
    "socketpair": (0, (1,), errno.EAFNOSUPPORT),
    "setsockopt": (2, (2,), errno.ENOPROTOOPT),  # SO_REUSEADDR; others attach BPF programs
    # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
    "ioctl": (1, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451), errno.ENOTTY),
    # PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_SET_NAME, PR_GET_NAME
    "prctl": (0, (1, 2, 15, 16), errno.EINVAL),
}
_NEW_NAMESPACES = 0x7E020000  # the flags CLONE_NEW* of clone(2)

# Instructions of classic BPF, see linux/filter.h and linux/seccomp.h.
_LOAD, _AND = 0x20, 0x54
_EQUAL, _AT_LEAST, _MORE = 0x15, 0x35, 0x25
_RETURN, _ALLOW, _ERROR = 0x06, 0x7FFF0000, 0x00050000
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_REFUSE = (_RETURN, 0, 0, _ERROR | errno.ENOSYS)


def allowed(machine: str) -> dict[str, int]:
    """{name: number} of each call that is allowed, perhaps only with some arguments."""
    return _numbers(_ALLOWED, machine)


def call_filter(machine: str) -> bytes:
    """The filter as an array of struct sock_filter.

    Raises:
        KeyError: `machine`, as platform.machine() names it, is not one of MACHINES.
    """
    free = allowed(machine)
    code = [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUAL, 1, 0, MACHINES[machine]),
        _REFUSE,
        (_LOAD, 0, 0, _NUMBER),
    ]
    for name, (position, values, error) in _ONLY.items():
        checks = [
            (_LOAD, 0, 0, _ARGUMENTS + 8 * position),  # the low half: these are 32 bits wide
            *((_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)),
            (_RETURN, 0, 0, _ERROR | error),
            (_RETURN, 0, 0, _ALLOW),
        ]
        code += [(_EQUAL, 0, len(checks), free.pop(name)), *checks]
    code += [
        (_EQUAL, 0, 5, free.pop("clone")),
        (_LOAD, 0, 0, _ARGUMENTS),
        (_AND, 0, 0, _NEW_NAMESPACES),
        (_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, _ERROR | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code += _for_numbers(_numbers(_NOT_SUPPORTED, machine).values(), _ERROR | errno.ENOTSUP)
    code += _for_numbers(free.values(), _ALLOW)
    return b"".join(struct.pack("HBBI", *instruction) for instruction in (*code, _REFUSE))


def _numbers(table: str, machine: str) -> dict[str, int]:
    column = list(MACHINES).index(machine)
    rows = re.findall(r"(\w+) (\d+) (\d+|-)", table)
    return {name: int(numbers[column]) for name, *numbers in rows if numbers[column] != "-"}


def _for_numbers(numbers: Iterable[int], answer: int) -> list[tuple[int, int, int, int]]:
    """Instructions that return `answer` for these numbers, three for each consecutive range."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [
        instruction
        for run in runs
        for instruction in (
            (_AT_LEAST, 0, 2, run[0]),
            (_MORE, 1, 0, run[-1]),
            (_RETURN, 0, 0, answer),
        )
    ]
