"""The inner side of the sandbox: the processes between the caller and the program.

    contain    caller - outer - init - program, each the parent of the next
    run        this process becomes the program

The caller ends a program by closing the outer process's standard input. Then, or when the caller
dies, the outer process kills the init of the program's namespaces, and with it the kernel kills
everything in them. With bubblewrap, bwrap is between outer and init, the init is bubblewrap's own,
and its child executes this script again, with `run`.

Uses the standard library only. `outside.py` does not import this module but starts it for every
program, so it is compiled beforehand and imports little: each import takes milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import sys

NEW_USER = 0x10000000
NEW_NAMESPACES = 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000  # see unshare(2)
READ_ONLY, NO_SUID, NO_DEV, NO_EXEC = 1, 2, 4, 8
REMOUNT, BIND, RECURSIVE, PRIVATE, DETACH = 32, 4096, 16384, 1 << 18, 2
# Of prctl(2).
SET_DEATH_SIGNAL, SET_FILTER, DROP_FROM_BOUND, ADOPT_ORPHANS, NO_NEW_PRIVILEGES = 1, 22, 24, 36, 38
FILTER_CALLS, CAPABILITIES_VERSION, JOIN_SESSION_KEYRING = 2, 0x20080522, 1
PIVOT_ROOT, KEYCTL = {"x86_64": (155, 250), "aarch64": (41, 219)}.get(os.uname().machine, (0, 0))
KILL = 9
NOBODY = 65534
CORES = 4  # pools choose their size by it, which must stay within the limit on processes
DEVICES = ("/dev/null", "/dev/urandom")

TYPE_CHECKING = False  # `typing` would take longer to import than the rest of this
if TYPE_CHECKING:
    from typing import Any

    Order = dict[str, Any]

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> None:
    if getattr(libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def mount(
    source: str | None,
    target: str,
    kind: str | None = None,
    flags: int = 0,
    options: str | None = None,
) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    call("mount", *words, ctypes.c_ulong(flags), options and options.encode())


def write(path: str, content: str) -> None:
    with open(path, "w") as file:
        file.write(content)


def no_input() -> None:
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def contain(order: Order, file: int) -> None:
    """The outer process: runs until the caller closes its input, then ends all other processes."""
    call("prctl", SET_DEATH_SIGNAL, KILL, 0, 0, 0)
    call("prctl", ADOPT_ORPHANS, 1, 0, 0, 0)
    cores = sorted(os.sched_getaffinity(0))
    first = int.from_bytes(os.urandom(4), "big")
    os.sched_setaffinity(0, {cores[(first + place) % len(cores)] for place in range(CORES)})
    if not order["bwrap"] or order["nobody"]:  # bubblewrap's own namespace has one user only
        enter_user_namespace(order["nobody"])
    if not order["bwrap"]:
        os.close(file)
        call("unshare", NEW_NAMESPACES)
    hung_up, held = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(held)
        no_input()
        os.setsid()  # a signal to the program's whole group does not reach the outer process
        write("/proc/self/oom_score_adj", "1000")  # if memory runs out, kill this, not the caller
        if order["bwrap"]:
            end_with_parent(hung_up)
            os.execv(order["bwrap"], bubblewrap(order, file))
        init(order, hung_up)
    os.close(order["pipe"])
    while os.read(0, 1):
        pass
    os.kill(child, KILL)
    try:
        os.killpg(child, KILL)  # bubblewrap and its init; neither can leave the group
    except ProcessLookupError:
        pass  # it had not created its group yet
    try:
        while True:
            os.wait()  # the init ends only after everything in its namespaces
    except ChildProcessError:
        os._exit(0)


def end_with_parent(hung_up: int) -> None:
    """Die with the parent; at once if it is dead already, which the pipe from it shows."""
    call("prctl", SET_DEATH_SIGNAL, KILL, 0, 0, 0)
    if select.select([hung_up], [], [], 0)[0]:
        os._exit(1)


def enter_user_namespace(with_nobody: bool) -> None:
    """Enter a namespace that has the caller's user and, if `with_nobody`, also `nobody`."""
    user, group, process = os.getuid(), os.getgid(), os.getpid()
    second = f"\n{NOBODY} {NOBODY} 1" if with_nobody else ""
    entered, enter = os.pipe()
    mapper = os.fork()
    if mapper == 0:
        try:
            os.close(enter)
            if os.read(entered, 1):
                if not with_nobody:
                    write(f"/proc/{process}/setgroups", "deny")
                write(f"/proc/{process}/uid_map", f"{user} {user} 1{second}")
                write(f"/proc/{process}/gid_map", f"{group} {group} 1{second}")
                os._exit(0)
        finally:
            os._exit(1)
    os.close(entered)
    call("unshare", NEW_USER)
    os.write(enter, b"1")
    os.close(enter)
    if os.waitpid(mapper, 0)[1] != 0:
        raise OSError("the user namespace has no users")


def bubblewrap(order: Order, file: int) -> list[str]:
    """The command line of bwrap. It leaves capabilities that `main` needs and then drops."""
    limits = order["limits"]
    words = ["bwrap", "--die-with-parent"]
    words += [f"--unshare-{kind}" for kind in ("ipc", "pid", "net", "uts", "cgroup-try")]
    if not order["nobody"]:
        words += ["--unshare-user"]
    words += ["--cap-drop", "ALL"]
    for capability in ("CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID"):
        words += ["--cap-add", capability]
    # /tmp comes first, since the interpreter or numpy may be below the real /tmp.
    words += ["--perms", "1777", "--size", str(limits["disk"]), "--tmpfs", "/tmp"]
    for how, path in (
        *(("--ro-bind", path) for path in order["visible"]),
        *(("--dev-bind", path) for path in DEVICES),
    ):
        parents = path.split("/")[1:-1]
        for depth in range(1, len(parents) + 1):  # bwrap's own would be for their owner only
            words += ["--dir", "/" + "/".join(parents[:depth])]
        words += [how, path, path]
    words += ["--symlink", "/tmp", "/dev/shm"]
    words += ["--chdir", "/tmp", "--remount-ro", "/", "--"]
    os.set_inheritable(file, True)
    return [*words, *order["start"], "run", str(file)]


def init(order: Order, hung_up: int) -> None:
    """The first process of the namespaces; when it ends, everything in them is killed."""
    write("/proc/sys/user/max_user_namespaces", "0")
    make_root(order["folder"], order["visible"], order["limits"])
    drop_rights(order["nobody"])
    end_with_parent(hung_up)  # not earlier, as a change of user resets it
    os.close(hung_up)
    program = os.fork()
    if program == 0:
        run(order)
    os.close(order["pipe"])
    while os.wait()[0] != program:
        pass
    os._exit(0)


def make_root(folder: str, visible: list[str], limits: Order) -> None:
    """An empty root with the visible paths, read-only, and /tmp in memory."""
    mount(None, "/", flags=RECURSIVE | PRIVATE)
    mount("none", folder, "tmpfs", NO_SUID | NO_DEV, "size=1m,nr_inodes=2000,mode=755")
    # /tmp comes first, since visible paths may be below the real /tmp.
    os.mkdir(f"{folder}/tmp")
    options = f"size={limits['disk']},nr_inodes={limits['files']},mode=1777"
    mount("none", f"{folder}/tmp", "tmpfs", NO_SUID | NO_DEV, options)
    for path in (*visible, *DEVICES):
        target = folder + path
        if os.path.lexists(target):
            continue  # it is inside of another visible path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.isdir(path):
            os.mkdir(target)
        else:
            write(target, "")
        mount(path, target, flags=BIND | RECURSIVE)
        # Flags of the original mount are locked: a remount that lacks one is refused.
        locked = os.statvfs(target).f_flag & (NO_SUID | NO_DEV | NO_EXEC)
        mount(None, target, flags=BIND | REMOUNT | READ_ONLY | NO_SUID | locked)
    os.symlink("/tmp", f"{folder}/dev/shm")  # where the C library keeps semaphores
    os.makedirs(f"{folder}/old")
    os.chdir(folder)
    call("syscall", PIVOT_ROOT, b".", b"old")
    call("umount2", b"/old", DETACH)
    mount(None, "/", flags=REMOUNT | READ_ONLY | NO_SUID | NO_DEV, options="size=1m,mode=755")
    os.chdir("/tmp")


def drop_rights(to_nobody: bool) -> None:
    """Drop all capabilities, for good."""
    for capability in range(64):
        libc.prctl(DROP_FROM_BOUND, capability, 0, 0, 0)
    if to_nobody:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    version = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0)
    call("capset", version, (ctypes.c_uint32 * 6)())
    call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def run(order: Order) -> None:
    """Set the limits, then run the program; only its first process reports the verdict."""
    pipe = order["pipe"]
    os.set_inheritable(pipe, False)
    set_limits(order["limits"], order["filter"])
    process = os.getpid()
    module = type(sys)("__main__")
    module.__file__ = os.path.abspath("program.py")  # processes that it spawns import this file
    sys.modules["__main__"] = module
    sys.argv = [module.__file__]
    sys.path += order["packages"]
    try:
        with open(module.__file__, "w", encoding="utf-8", newline="") as file:
            file.write(order["source"])
        exec(compile(order["source"], module.__file__, "exec"), module.__dict__)
    except BaseException as error:  # sys.exit() counts as a failure, too
        if os.getpid() != process:
            raise
        said = f"{type(error).__name__}: {error}".strip().removesuffix(":")[:400]
        os.write(pipe, said.encode(errors="replace"))
        os._exit(1)
    if os.getpid() != process:
        sys.exit()
    os.write(pipe, order["token"].encode())
    os._exit(0)


def set_limits(limits: Order, call_filter: bytes) -> None:
    """Set the limits and the filter of system calls.

    Without a filter there is no sandbox, and all processes of the user would count against a limit
    on processes, so that none is set.
    """
    for name, value in (
        ("RLIMIT_CORE", 0),
        ("RLIMIT_CPU", int(limits["seconds"]) + 2),  # if the caller does not end it before
        ("RLIMIT_AS", limits["memory"]),
        ("RLIMIT_FSIZE", limits["file_size"]),
        ("RLIMIT_NOFILE", 64),
        *((("RLIMIT_NPROC", limits["processes"]),) if call_filter else ()),
    ):
        resource.setrlimit(getattr(resource, name), (value, value))
    if call_filter:
        libc.syscall(KEYCTL, JOIN_SESSION_KEYRING, None)  # fails where the kernel keeps no keys
        set_filter(call_filter)


def set_filter(instructions: bytes) -> None:
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))

    program = Program(len(instructions) // 8, instructions)
    call("prctl", SET_FILTER, FILTER_CALLS, ctypes.byref(program), 0, 0)


def main(order: Order, action: str, file: int) -> None:
    """Do what the order says; `file` is the descriptor that the order was read from."""
    if action == "contain":
        contain(order, file)
    os.close(file)
    no_input()
    if order["bwrap"]:
        limits = order["limits"]
        options = f"size={limits['disk']},nr_inodes={limits['files']}"
        try:
            mount(None, "/tmp", flags=REMOUNT | NO_SUID | NO_DEV, options=options)
        except OSError:
            pass  # AppArmor can forbid it; the size is limited by bwrap
        drop_rights(order["nobody"])
    run(order)
