"""Programs that do no harm pass in every kind of sandbox that there is here."""

import pytest

from talr_cli.evaluation.sandbox import outside as sandbox
from talr_cli.evaluation.sandbox.outside import KINDS, Limits, Outcome, run_program

# What Python's own library does that a filter, a limit or an empty root could break.
HONEST = {
    "a child that ends, one that leaves, one that fails": """
import os, sys
for how in ("end", "leave", "fail"):
    child = os.fork()
    if child == 0:
        if how == "leave":
            sys.exit(3)
        assert how == "end"
        break
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == {"end": 0, "leave": 3, "fail": 1}[how]
""",
    "a child that is still at work at the end": """
import os, time
if os.fork() == 0:
    time.sleep(60)
""",
    "pools, queues, shared values and memory": """
import multiprocessing as many
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.shared_memory import SharedMemory
def square(x):
    return x * x
with many.Pool() as pool:
    assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]
def add(queue, value):
    with value.get_lock():
        value.value += 1
    queue.put(1)
queue, value = many.Queue(), many.Value("i", 0)
others = [many.Process(target=add, args=(queue, value)) for _ in range(3)]
for other in others:
    other.start()
assert sum(queue.get() for _ in others) == 3
for other in others:
    other.join()
assert value.value == 3
memory = SharedMemory(create=True, size=9)
again = SharedMemory(memory.name)
again.buf[0] = 7
assert memory.buf[0] == 7
memory.unlink()
with ThreadPoolExecutor() as pool:
    assert sum(pool.map(square, range(100))) == 328350
""",
    "a process that imports the program": """
import multiprocessing
def answer(queue):
    queue.put(42)
if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    process = spawn.Process(target=answer, args=(queue,))
    process.start()
    assert queue.get() == 42
    process.join()
""",
    "other programs": """
import asyncio, os, subprocess, sys
shown = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, check=True)
assert shown.stdout == b"42\\n"
assert subprocess.check_output("echo a | tr a b", shell=True) == b"b\\n"
async def main():
    process = await asyncio.create_subprocess_exec("echo", "a", stdout=subprocess.PIPE)
    return (await process.communicate())[0], await asyncio.to_thread(os.getpid)
assert asyncio.run(main()) == (b"a\\n", os.getpid())
""",
    "files, a data base, sockets, signals, C": """
import ctypes, os, pathlib, shutil, signal, socket, sqlite3, sys, tempfile, time
with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder, "a")
    file.write_text("x")
    shutil.copy2(file, folder + "/b")
    shutil.copy2(os.__file__, folder + "/c")
    file.chmod(0o600)
    os.symlink("a", folder + "/d")
    assert sorted(os.listdir(folder)) == ["a", "b", "c", "d"]
base = sqlite3.connect("/tmp/base")
base.execute("create table t (x)")
base.commit()
one, other = socket.socketpair()
one.sendall(b"x")
assert other.recv(1) == b"x"
try:
    socket.socket()
except OSError:
    pass
seen = []
signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.01)
time.sleep(0.1)
assert seen
integer = ctypes.POINTER(ctypes.c_int)
order = ctypes.CFUNCTYPE(ctypes.c_int, integer, integer)(lambda a, b: a[0] - b[0])
numbers = (ctypes.c_int * 3)(3, 1, 2)
ctypes.CDLL(None).qsort(numbers, 3, 4, order)
assert list(numbers) == [1, 2, 3]
assert sys.stdin.read() == ""
""",
    "its own source, names and arguments": """
import argparse, inspect, pickle
class Thing:
    pass
assert type(pickle.loads(pickle.dumps(Thing()))) is Thing
assert "pass" in inspect.getsource(Thing)
argparse.ArgumentParser().parse_args()
""",
}


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("program", HONEST.values(), ids=HONEST)
def test_a_harmless_program_passes_in_every_sandbox(program, how, monkeypatch):
    if not sandbox.is_available(how):
        pytest.skip(f"no {how} here")
    monkeypatch.setattr(sandbox, "available_sandbox", lambda: how)
    assert run_program(program, Limits()) == Outcome(True, "")
