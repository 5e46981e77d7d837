"""The local page of `dfmamba app` and its HTTP API; needs the extra `app`. docs/use/app.md describes both."""

from __future__ import annotations
