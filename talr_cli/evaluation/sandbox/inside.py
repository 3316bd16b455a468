"""The sandbox from within: what stands between the caller's process and the program's.

    inside.py contain PIPE FOLDER VISIBLE...   make the namespaces, then `run` in them
    inside.py run PIPE                         set the limits, run what standard input says

A script of the standard library alone; it is not imported. `contain` needs Linux and no rights.
"""

import ctypes
import json
import os
import platform
import resource
import signal
import sys
import traceback

NEW_USER = 0x10000000
NEW_NAMESPACES = 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000  # see unshare(2)
READ_ONLY, NO_SUID, NO_DEV, NO_EXEC = 1, 2, 4, 8
REMOUNT, BIND, RECURSIVE, PRIVATE, DETACH = 32, 4096, 16384, 1 << 18, 2
SET_DEATH_SIGNAL, DROP_FROM_BOUND, SET_NO_NEW_PRIVILEGES = 1, 24, 38
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
NOBODY = 65534

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    if getattr(libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def mount(source, target, kind=None, flags=0, options=None):
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    call("mount", *words, ctypes.c_ulong(flags), options and options.encode())


def contain(pipe, folder, visible, limits):
    with open(__file__, encoding="utf-8") as file:
        runner = file.read()
    user = NOBODY if os.getuid() == 0 else 0
    begun, may_go_on = os.pipe(), os.pipe()
    if child := os.fork():
        os.close(pipe)
        os.read(begun[0], 1)
        map_users(child)
        os.write(may_go_on[1], b"1")
        os.waitpid(child, 0)
        return
    call("unshare", NEW_USER)
    os.write(begun[1], b"1")
    os.read(may_go_on[0], 1)
    for end in (*begun, *may_go_on):
        os.close(end)
    call("unshare", NEW_NAMESPACES)
    if child := os.fork():  # the first child is the namespace's init: with it everything ends
        os.close(pipe)
        os.waitpid(child, 0)
        return
    write("/proc/sys/user/max_user_namespaces", "0")  # in another one it would be root again
    make_root(folder, visible, limits)
    for capability in range(64):
        libc.prctl(DROP_FROM_BOUND, capability, 0, 0, 0)
    if user:
        os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    call("prctl", SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    call("prctl", SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    # Executing anything with an empty bounding set leaves no capability.
    run = (sys.executable, "-I", "-S", "-X", "utf8", "-c", runner, "run", str(pipe))
    os.execve(sys.executable, run, dict(os.environ))


def map_users(child):
    """The caller is root inside; root itself also gets a user whom the process limit binds."""
    user, group = os.getuid(), os.getgid()
    second = f"\n{NOBODY} {NOBODY} 1" if user == 0 else ""
    if not second:
        write(f"/proc/{child}/setgroups", "deny")
    write(f"/proc/{child}/uid_map", f"0 {user} 1{second}")
    write(f"/proc/{child}/gid_map", f"0 {group} 1{second}")


def write(path, content):
    with open(path, "w") as file:
        file.write(content)


def make_root(folder, visible, limits):
    """An empty root with the visible paths, read-only, and /tmp in memory."""
    mount(None, "/", flags=RECURSIVE | PRIVATE)
    mount("none", folder, "tmpfs", NO_SUID | NO_DEV, "size=1m,nr_inodes=2000,mode=755")
    for path in (*visible, "/dev/null", "/dev/urandom"):
        target = folder + path
        if os.path.lexists(target):
            continue  # lies inside one that is there already
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.isdir(path):
            os.mkdir(target)
        else:
            write(target, "")
        mount(path, target, flags=BIND | RECURSIVE)
        # Flags of the original mount are locked: a remount that lacks one is refused.
        locked = os.statvfs(target).f_flag & (NO_SUID | NO_DEV | NO_EXEC)
        mount(None, target, flags=BIND | REMOUNT | READ_ONLY | NO_SUID | locked)
    os.makedirs(f"{folder}/tmp")
    os.makedirs(f"{folder}/old")
    options = f"size={limits['disk']},nr_inodes={limits['files']},mode=1777"
    mount("none", f"{folder}/tmp", "tmpfs", NO_SUID | NO_DEV, options)
    os.chdir(folder)
    call("syscall", PIVOT_ROOT[platform.machine()], b".", b"old")
    call("umount2", b"/old", DETACH)
    mount(None, "/", flags=REMOUNT | READ_ONLY | NO_SUID | NO_DEV, options="size=1m,mode=755")
    os.chdir("/tmp")


def run(pipe, order):
    os.set_inheritable(pipe, False)
    limits = order["limits"]
    for name, value in (
        ("RLIMIT_CORE", 0),
        ("RLIMIT_CPU", limits["cpu_seconds"]),
        ("RLIMIT_AS", limits["memory"]),
        ("RLIMIT_FSIZE", limits["file_size"]),
        ("RLIMIT_NPROC", limits["processes"]),
        ("RLIMIT_NOFILE", 64),
    ):
        resource.setrlimit(getattr(resource, name), (value, value))
    try:
        exec(compile(order["source"], "<program>", "exec"), {"__name__": "__main__"})
    except BaseException as error:  # sys.exit() is no end of a program that is being tested
        said = traceback.format_exception_only(error)[-1].strip()[:400]
        os.write(pipe, (said or "failed").encode(errors="replace"))
        os._exit(1)
    os.write(pipe, order["token"].encode())
    os._exit(0)


if __name__ == "__main__":
    _, action, pipe, *places = sys.argv
    if action == "contain":
        order = json.loads(os.pread(0, 1 << 28, 0))  # `run` reads it again
        contain(int(pipe), places[0], places[1:], order["limits"])
    else:
        run(int(pipe), json.loads(sys.stdin.buffer.read()))
