"""The one door: `python -m lcm <stage>` runs a stage by hand exactly as its Snakemake rule does."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import time
from pathlib import Path

import pydantic

from lcm.config import COMMANDS, SETTINGS, STAGE_ROOMS, Settings, module_of
from lcm.provenance import record
from lcm.tables import FULL_DISK, write_atomically
from lcm.training.machine import rank_of

log = logging.getLogger("lcm")


def _usage() -> str:
    stages, commands = ("\n  ".join(names) for names in (STAGE_ROOMS, COMMANDS))
    return (
        f"usage: python -m lcm <stage> [options]\n\nstages, in running order:\n  {stages}\n\n"
        f"commands beside them:\n  {commands}\n\npython -m lcm <stage> --help explains one."
    )


def _settings(stage: str, text: str) -> Settings:
    """The stage's section of config.yaml, handed over as JSON; `{}` takes every default. A command has none."""
    try:
        return SETTINGS.get(stage, Settings).model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"--settings: not JSON ({error})") from None
    except pydantic.ValidationError as error:
        lines = (f"{stage}.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError("--settings: " + "; ".join(lines)) from None


def _write_record(stage: str, module: object, options: argparse.Namespace, started: float) -> None:
    """Put the record beside the output: `x.arrow` gets `x.json`, a folder gets `record.json`."""
    output: Path = options.output
    beside = output / "record.json" if output.is_dir() else output.with_suffix(".json")
    inputs = {name: path for name, path in vars(options).items() if isinstance(path, Path) and path != output}
    inputs = {name: path for name, path in inputs.items() if path.exists()}
    # A stage whose text depends on more than its settings has put it into options.methods.
    methods = getattr(options, "methods", None)
    if methods is None and hasattr(module, "methods"):
        methods = module.methods(options.settings)
    with write_atomically(beside) as temporary:
        temporary.write_text(record(stage, options.settings, inputs, started, methods), encoding="utf-8")


def _told(error: Exception, options: argparse.Namespace) -> str:
    """The error's text; where a write found no room and the system gave no name, the stage's output is the name."""
    if isinstance(error, OSError) and error.errno in FULL_DISK and error.filename is None:
        return f"{options.output}: {FULL_DISK[error.errno]}; make room and start again"
    return str(error)


def main(arguments: list[str] | None = None) -> int:
    """Run one stage or command; 0 when its output stands, 1 with one line on stderr when it does not, 2 for a wrong call."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in STAGE_ROOMS | COMMANDS:
        sys.stderr.write(_usage() + "\n")
        return 0 if arguments in (["--help"], ["-h"]) else 2
    stage = arguments[0]
    started = time.monotonic()
    module = importlib.import_module(module_of(stage))
    parser = argparse.ArgumentParser(prog=f"lcm {stage}", description=module.__doc__)
    module.arguments(parser)
    if stage in SETTINGS:
        parser.add_argument("--settings", default="{}", help=f"the `{stage}` section of config.yaml, as JSON")
    options = parser.parse_args(arguments[1:])
    # Processes that share a training run this same command; one of them tells what it does.
    level = logging.WARNING if rank_of(os.environ) else logging.INFO
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        options.settings = _settings(stage, getattr(options, "settings", "{}"))
        code = module.main(options)
        if code is None:
            _write_record(stage, module, options, started)
    except (ValueError, OSError) as error:
        if os.environ.get("LCM_TRACEBACK"):
            raise
        log.error("%s", _told(error, options))
        return 1
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
