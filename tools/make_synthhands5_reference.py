"""Writes the reference of SynthHands-5 (`dfmamba.synthhands5.checksums`): digests, thumbnails and joints.

    python tools/make_synthhands5_reference.py

Only a new `dfmamba.synthhands5.settings.VERSION` needs a new reference.
'dfmamba synthhands5 check' compares with it.
"""

from __future__ import annotations

from safetensors.torch import save

from dfmamba.io.files import write_atomic
from dfmamba.synthhands5.checksums import REFERENCE, make_reference

LIMIT_BYTES = 300_000


def main() -> None:
    """Renders and writes the file."""
    content = save(*make_reference())
    if len(content) > LIMIT_BYTES:
        raise SystemExit(f"{REFERENCE} would have {len(content)} bytes; expected at most {LIMIT_BYTES}")
    write_atomic(REFERENCE, content)
    print(f"{REFERENCE}: {len(content)} bytes")


if __name__ == "__main__":
    main()
