"""Writes the reference of SynthHands-5 (`dfmamba.synthhands5.checksums`): digests, thumbnails and joints.

    python tools/make_synthhands5_reference.py

Only a new `dfmamba.synthhands5.settings.VERSION` needs a new reference. With --compare nothing is written.
"""

from __future__ import annotations

import argparse
import sys

from safetensors.torch import save

from dfmamba.io.files import write_atomic
from dfmamba.synthhands5.checksums import REFERENCE, check, make_reference
from dfmamba.synthhands5.settings import SETTINGS, SPLITS

LIMIT_BYTES = 300_000


def main() -> None:
    """Reads the arguments and writes the file, or compares with it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--compare", action="store_true", help="compare this machine's pictures")
    if parser.parse_args().compare:
        found = [check(setting, split) for setting in SETTINGS for split in SPLITS]
        print(*(one.line for one in found), sep="\n")
        sys.exit(0 if all(one.ok for one in found) else 1)
    content = save(*make_reference())
    if len(content) > LIMIT_BYTES:
        raise SystemExit(f"{REFERENCE} would have {len(content)} bytes; expected at most {LIMIT_BYTES}")
    write_atomic(REFERENCE, content)
    print(f"{REFERENCE}: {len(content)} bytes")


if __name__ == "__main__":
    main()
