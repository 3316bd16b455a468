"""The command line in this process: in tenths of a second, without the imports of a new one."""

import io
import logging
import os
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from unittest import mock

from talr_cli import cli


def talr_here(*arguments, cwd):
    """(exit code, what was printed, log lines included) of `talr ARGUMENTS` in the folder `cwd`."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    root, own = logging.getLogger(), logging.getLogger("talr_cli")
    levels = root.level, own.level
    root.addHandler(handler)
    try:
        with (
            chdir(cwd),
            redirect_stdout(said),
            redirect_stderr(said),
            mock.patch.dict(os.environ),
            mock.patch.object(sys, "argv", ["talr", *arguments]),
            mock.patch.object(sys, "path", list(sys.path)),
        ):
            root.setLevel(logging.WARNING)
            try:
                code = cli.main()
            except SystemExit as left:  # argparse's and Hydra's --help
                code = left.code or 0
    finally:
        root.removeHandler(handler)
        root.setLevel(levels[0])
        own.setLevel(levels[1])
    return code, said.getvalue()
