"""Memory that an operator asks for and doesn't fill shows: it holds values that are not numbers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def fresh_memory_is_not_a_number() -> Iterator[None]:
    """PyTorch fills what `torch.empty` and its like give, as long as it is asked to be deterministic."""
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)
