"""Writes the reference of SynthHands-5 (`studies.synthhands5.checksums`): digests, thumbnails and joints.

    python -m studies.synthhands5.make_reference

Only a new `studies.synthhands5.settings.VERSION` needs a new reference.
'python -m studies.synthhands5 check' compares with it.
"""

from __future__ import annotations

from safetensors.torch import save

from dfmamba.io.files import write_atomic
from studies.synthhands5.checksums import REFERENCE, make_reference

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
