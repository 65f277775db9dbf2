"""Image files in, filtered image files out, through Pillow.

What a file keeps: its size, its depth (8 bits, 16-bit grey, 32-bit float), its transparency (not filtered), its EXIF
block and with it its orientation, its ICC profile and its resolution. Filters run on the stored values, without a
change to linear light, each channel by itself, and see the picture the way up that a viewer shows it. Results are
rounded to the nearest value and clipped to the range of the depth.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    Array = NDArray[Any]

__all__ = ["ImageError", "check_output_name", "filter_file", "is_image_name", "list_images", "pillow"]

_ORIENTATION = 0x0112
_KEEPS_EXIF = ("AVIF", "JPEG", "MPO", "PNG", "TIFF", "WEBP")
_WORKED_IN = ("L", "LA", "RGB", "RGBA", "CMYK", "I;16", "I", "F")
# What a TIFF's tags say of the picture; the others say how the file stores it.
_DESCRIPTIVE_TAGS = (270, 271, 272, _ORIENTATION, 305, 306, 315, 33432)


class ImageError(Exception):
    """A file that cannot be read, filtered or written as an image; the message says why."""


def pillow() -> Any:
    """Return Pillow's `Image` module with its formats registered.

    Raises
    ------
    ImageError
        If Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ImageError('images need Pillow: pip install "gpuconv[image]"') from None
    Image.init()
    return Image


def is_image_name(path: Path) -> bool:
    """Whether a file's name ends as one of Pillow's readable formats does."""
    image = pillow()
    return image.registered_extensions().get(path.suffix.lower()) in image.OPEN


def list_images(folder: Path) -> list[Path]:
    """Return the image files directly in a folder, by name; hidden ones are left out."""
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and is_image_name(p))


def check_output_name(path: Path) -> str:
    """Return the format that a file's name asks for.

    Raises
    ------
    ImageError
        If Pillow writes no format of that ending.
    """
    image = pillow()
    name = image.registered_extensions().get(path.suffix.lower())
    if name not in image.SAVE:
        raise ImageError(
            f"{path.name!r} does not end as an image that Pillow writes, such as .png, .jpg, .tiff or .webp"
        )
    return str(name)


def filter_file(
    source: Path, target: Path, function: Callable[[Array], Array], note: Callable[[str], None] = lambda _: None
) -> None:
    """Read an image, filter its colour planes and write the result, whole or not at all.

    Parameters
    ----------
    source, target : Path
    function : callable
        Maps float planes of shape (channels, height, width) to planes of that shape.
    note : callable
        Told, in a sentence, of what the result cannot keep.

    Raises
    ------
    ImageError
        If the file is no readable image, or the target's format cannot hold the result.
    OSError
        If a file cannot be opened or written.
    """
    name = check_output_name(target)
    image, exif = _read(source, note)
    orientation = exif_orientation(exif)
    options = _save_options(image, name, exif)
    pixels = np.asarray(image)
    pixels = _upright(pixels[..., None] if pixels.ndim == 2 else pixels, orientation)
    colours = pixels.shape[-1] - (image.mode in ("LA", "RGBA"))
    dtype = np.float64 if image.mode == "I" else np.float32
    planes = np.ascontiguousarray(np.moveaxis(pixels[..., :colours], -1, 0), dtype)
    filtered = np.moveaxis(function(planes), 0, -1)
    result = np.concatenate([_quantised(filtered, image.mode, name), pixels[..., colours:]], axis=-1)
    if "exif" in options:
        result = _upright(result, {6: 8, 8: 6}.get(orientation, orientation))
    with _replacing(target) as temporary:
        _write(_image_of(result, image.mode), temporary, name, options)


def _read(source: Path, note: Callable[[str], None]) -> tuple[Image.Image, Any]:
    """Return the loaded image in a mode of `_WORKED_IN`, and its EXIF block."""
    library = pillow()
    with source.open("rb") as file:
        try:
            image = library.open(file)
            if getattr(image, "n_frames", 1) > 1:
                note(f"{source.name}: has {image.n_frames} frames; only the first is filtered")
            is_deep = any(";16" in str(tile[3]) for tile in image.tile)
            image.load()
            exif = image.getexif()
        except Exception as error:  # Pillow's readers raise errors of every kind on broken data.
            reason = "not an image that Pillow can read" if isinstance(error, library.UnidentifiedImageError) else error
            raise ImageError(f"{reason}") from error
    if is_deep and image.mode in ("RGB", "RGBA", "LA"):
        note(f"{source.name}: has 16 bits a channel, of which Pillow reads 8 in colour; the result has 8")
    return _in_working_mode(image), exif


def _in_working_mode(image: Image.Image) -> Image.Image:
    info = image.info
    if image.mode.startswith("I;16"):
        mode = "I;16"
    elif image.mode in ("La", "LA") or (image.mode in ("1", "L") and "transparency" in info):
        mode = "LA"
    elif image.mode in ("RGBa", "PA") or (image.mode in ("P", "RGB") and "transparency" in info):
        mode = "RGBA"
    else:
        mode = {"1": "L"}.get(image.mode, image.mode if image.mode in _WORKED_IN else "RGB")
    if mode == image.mode:
        return image
    if image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16)
        converted = _image_of(pixels[..., None], mode)
    else:
        try:
            converted = image.convert(mode)
        except ValueError as error:
            raise ImageError(f"pixels of Pillow's mode {image.mode!r} are not supported: {error}") from error
    converted.info = info
    return converted


def exif_orientation(exif: Any) -> int:
    """Return the EXIF orientation, 1 where there is none or it is not one of the eight."""
    value = exif.get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: Array, orientation: int) -> Array:
    """Return the pixels (height, width, channels) as a viewer that follows EXIF shows them."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return pixels[rows, columns]


def _quantised(values: Array, mode: str, name: str) -> Array:
    """Return filtered values in the dtype of a mode: rounded, and clipped to its range."""
    if mode == "F":
        return values.astype(np.float32)
    # Pillow writes a PNG of mode "I" with 16 bits.
    highest = 65535 if mode == "I;16" or (mode == "I" and name == "PNG") else 2**31 - 1 if mode == "I" else 255
    lowest = -(2**31) if highest == 2**31 - 1 else 0
    dtype = {"I;16": np.uint16, "I": np.int32}.get(mode, np.uint8)
    return np.clip(np.rint(values), lowest, highest).astype(dtype)


def _image_of(pixels: Array, mode: str) -> Image.Image:
    height, width, channels = pixels.shape
    data = np.ascontiguousarray(pixels if channels > 1 else pixels[..., 0])
    raw = {"I;16": "I;16", "I": "I;32NS", "F": "F;32NF"}.get(mode, mode)
    if mode == "I;16":
        data = data.astype("<u2", copy=False)
    return pillow().frombytes(mode, (width, height), data.tobytes(), "raw", raw)


def _save_options(image: Image.Image, name: str, exif: Any) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if name in _KEEPS_EXIF and len(exif):
        options["exif"] = image.info.get("exif") or _descriptive(exif)
    for key in ("icc_profile", "dpi"):
        if image.info.get(key):
            options[key] = image.info[key]
    if name in ("JPEG", "MPO", "WEBP"):
        options["quality"] = 95
    return options


def _descriptive(exif: Any) -> Any:
    kept = pillow().Exif()
    for tag in _DESCRIPTIVE_TAGS:
        if tag in exif:
            kept[tag] = exif[tag]
    return kept


def _write(image: Image.Image, path: Path, name: str, options: dict[str, Any]) -> None:
    try:
        image.save(path, format=name, **options)
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ImageError(f"the result cannot be written as {name}: {error}") from error


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Give a temporary name beside `target`; rename it to `target` at the end, remove it on any error."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
