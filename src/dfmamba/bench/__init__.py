"""Benchmarks: operators, backbones and pose models against what else can be installed (`dfmamba bench`)."""

from __future__ import annotations
