"""The local page of `dfmamba app` and its HTTP API; needs the extra `app`. docs/app.md describes both."""

from __future__ import annotations
