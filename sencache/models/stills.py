"""The still that an image-to-video model starts from, read from its file."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

from sencache.errors import SencacheError
from sencache.schema import Still

MAX_BYTES = 50_000_000
MAX_PIXELS = 100_000_000


def read_still(path: Path) -> Still:
    """The still in the file `path`; raises SencacheError when it cannot be read or is no picture."""
    content = _read(path)
    _decode(content, path.name)
    return Still(name=path.name, sha256=hashlib.sha256(content).hexdigest()).with_path(path)


def still_pixels(still: Still, height: int, width: int) -> Any:
    """A PIL picture of this size: scaled to cover it, cut at the centre.

    Raises SencacheError where the file is not at hand, as in a report that was read back, or has changed.
    """
    from PIL import Image, ImageOps

    if still.path is None:
        raise SencacheError(f"the still {still.name!r} is known by its name alone; give its file again")
    content = _read(still.path)
    if hashlib.sha256(content).hexdigest() != still.sha256:
        raise SencacheError(f"the still {still.path} was changed meanwhile; start again")
    return ImageOps.fit(_decode(content, still.name), (width, height), Image.Resampling.LANCZOS)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SencacheError(f"the image {path} is larger than {MAX_BYTES:,} bytes; give a smaller one")
        return path.read_bytes()
    except OSError as error:
        raise SencacheError(f"cannot read the image {path} ({error.strerror}); check the path") from None


def _decode(content: bytes, name: str) -> Any:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(content)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise SencacheError(
                    f"the image {name!r} has {picture.width}x{picture.height} pixels; give a smaller one"
                )
            # Cameras note how they were held instead of turning the picture.
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SencacheError(f"{name!r} is not a picture ({error}); give a PNG or JPEG file") from None
