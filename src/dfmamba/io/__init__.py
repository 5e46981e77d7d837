"""Reading pictures and writing files safely."""

from __future__ import annotations

from dfmamba.io.files import write_atomic
from dfmamba.io.images import MAX_MEGAPIXELS, as_picture, find_images, list_images, load_image

__all__ = ["MAX_MEGAPIXELS", "as_picture", "find_images", "list_images", "load_image", "write_atomic"]
