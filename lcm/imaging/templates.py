"""Which template is meant: names of spaces, TemplateFlow's files and what to do where they are missing."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lcm.config import Preprocess

_AUTO = "MNI152NLin2009cAsym"
_FILES = {"T1w": "res-01_T1w.nii.gz", "mask": "res-01_desc-brain_mask.nii.gz"}


def space_name(template: str) -> str:
    """The BIDS space label of a template: what `resolve_template` gives, or any name but `auto`."""
    return "MNI152NLin2009aSym" if template == "nilearn" else template


def template_origin(template: str) -> str:
    """Where the template's files come from, for a sidecar: package and version, or TemplateFlow."""
    source = f"nilearn {version('nilearn')}" if template == "nilearn" else "TemplateFlow"
    return f"{space_name(template)} of {source}"


def resolve_template(settings: Preprocess) -> str:
    """`nilearn` or the name of a TemplateFlow template whose files are there: what `settings.template` means on this machine.

    `auto` takes MNI152NLin2009cAsym where TEMPLATEFLOW_HOME really holds it and nilearn otherwise; a name is meant as it
    stands. With `download_templates` TemplateFlow fetches what is missing first. Raises ValueError naming the missing file
    and what to do.
    """
    if settings.template == "nilearn":
        return "nilearn"
    template = _AUTO if settings.template == "auto" else settings.template
    missing = [kind for kind in _FILES if not _is_there(template_file(template, kind))]
    if missing and settings.download_templates:
        _download(template)
        missing = [kind for kind in _FILES if not _is_there(template_file(template, kind))]
    elif missing and settings.template == "auto":
        return "nilearn"
    if missing:
        raise ValueError(
            f"preprocess.template is {settings.template}, but {template_file(template, missing[0])} is missing or empty: "
            f"fetch it once on a machine with network and set TEMPLATEFLOW_HOME ({fetching(template)}), set "
            "preprocess.download_templates, or use template: nilearn"
        )
    return template


def template_file(template: str, kind: str) -> Path:
    """Where TemplateFlow keeps the `T1w` or the `mask` of a template, whether or not it is there."""
    home = Path(os.environ.get("TEMPLATEFLOW_HOME", Path.home() / ".cache" / "templateflow"))
    return home / f"tpl-{template}" / f"tpl-{template}_{_FILES[kind]}"


def _is_there(path: Path) -> bool:
    # TemplateFlow's skeleton is of zero-byte files.
    return path.is_file() and path.stat().st_size > 0


def fetching(template: str) -> str:
    """The command that fetches a template once, for an error's text."""
    return f"python -c \"import templateflow.api as t; t.get('{template}', resolution=1)\""


def _download(template: str) -> None:
    """Let TemplateFlow fetch the T1w and the brain mask at 1 mm; raises ValueError when it cannot."""
    try:
        import templateflow.api

        templateflow.api.get(template, resolution=1, suffix="T1w", desc=None)
        templateflow.api.get(template, resolution=1, suffix="mask", desc="brain")
    except Exception as error:
        # requests, datalad and TemplateFlow itself each have errors of their own, none of which a user can read.
        raise ValueError(
            f"TemplateFlow could not fetch {template} ({type(error).__name__}): fetch it on a machine with network "
            f"({fetching(template)}) and set TEMPLATEFLOW_HOME, or use preprocess.template: nilearn"
        ) from error
