"""What every test here needs: a GPU; without one they are skipped."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def gpu() -> None:
    """Skip where torch sees no GPU."""
    if not torch.cuda.device_count():
        pytest.skip("torch sees no GPU")
