"""The package's shared fixtures, for the tests of the studies."""

from __future__ import annotations

from conftest import samples_dir as samples_dir  # of tests/, see pythonpath in pyproject.toml
