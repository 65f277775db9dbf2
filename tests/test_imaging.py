"""Image files: what is read, what is kept, what is written."""

from __future__ import annotations

import os

import numpy as np
import pytest

pytest.importorskip("PIL")
from PIL import Image, ImageOps
from support import opened

from gpuconv import filters, imaging

ORIENTATION = 0x0112


def gradient(channels=None, dtype=np.uint8, height=9, width=12):
    rng = np.random.default_rng(0)
    shape = (height, width) if channels is None else (height, width, channels)
    return rng.integers(0, np.iinfo(dtype).max, shape).astype(dtype)


def through(tmp_path, image, name="in.png", out="out.png", function=lambda planes: planes, **options):
    """Save an image, filter the file, and return the result, loaded."""
    image.save(tmp_path / name, **options)
    notes = []
    imaging.filter_file(tmp_path / name, tmp_path / out, function, notes.append)
    return opened(tmp_path / out), notes


@pytest.mark.parametrize(
    ("mode", "channels", "ending"),
    [
        ("L", None, "png"), ("LA", 2, "png"), ("RGB", 3, "png"), ("RGBA", 4, "png"), ("RGB", 3, "bmp"),
        ("L", None, "tiff"), ("RGBA", 4, "tiff"), ("CMYK", 4, "tiff"), ("RGB", 3, "ppm"),
    ],
)  # fmt: skip
def test_the_identity_keeps_every_pixel_and_the_mode(tmp_path, mode, channels, ending):
    pixels = gradient(channels)
    result, notes = through(tmp_path, Image.frombytes(mode, (12, 9), pixels.tobytes()), f"in.{ending}", f"out.{ending}")
    assert result.mode == mode
    np.testing.assert_array_equal(np.asarray(result), pixels)
    assert not notes


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_16_bit_grey_keeps_its_depth(tmp_path, ending):
    pixels = gradient(dtype=np.uint16)
    image = Image.frombytes("I;16", (12, 9), pixels.tobytes())
    result, _ = through(tmp_path, image, f"in.{ending}", f"out.{ending}", lambda planes: planes + 1000.0)
    expected = np.minimum(pixels.astype(int) + 1000, 65535)
    np.testing.assert_array_equal(np.asarray(result).astype(int), expected)


@pytest.mark.parametrize(("mode", "dtype"), [("I", np.int32), ("F", np.float32)])
def test_32_bit_tiff(tmp_path, mode, dtype):
    pixels = (gradient(dtype=np.uint16).astype(dtype) - 1000) * 1000
    result, _ = through(tmp_path, Image.fromarray(pixels), "in.tif", "out.tif", lambda planes: planes + 0.25)
    assert result.mode == mode
    np.testing.assert_array_equal(np.asarray(result), pixels if mode == "I" else pixels + np.float32(0.25))


def test_values_are_rounded_and_clipped(tmp_path):
    image = Image.fromarray(np.array([[0, 100, 250]], np.uint8))
    result, _ = through(tmp_path, image, function=lambda planes: planes * np.float32(1.5) - np.float32(0.6))
    assert np.asarray(result).tolist() == [[0, 149, 255]]


def test_alpha_is_kept_and_not_filtered(tmp_path):
    pixels = gradient(4)
    seen = []
    result, _ = through(
        tmp_path, Image.fromarray(pixels), function=lambda planes: seen.append(planes.shape) or 0 * planes
    )
    assert seen == [(3, 9, 12)]
    np.testing.assert_array_equal(np.asarray(result)[..., 3], pixels[..., 3])
    assert not np.asarray(result)[..., :3].any()


def test_palette_and_one_bit_images_are_converted(tmp_path):
    palette = Image.fromarray(gradient(3)).quantize(16)
    result, _ = through(tmp_path, palette)
    np.testing.assert_array_equal(np.asarray(result), np.asarray(palette.convert("RGB")))
    result, _ = through(tmp_path, palette, "in.gif", transparency=0)
    assert result.mode == "RGBA"
    bits = Image.fromarray(gradient()).convert("1")
    result, _ = through(tmp_path, bits)
    assert result.mode == "L"
    np.testing.assert_array_equal(np.asarray(result), np.asarray(bits.convert("L")))


def test_a_transparent_colour_becomes_alpha(tmp_path):
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 0] = (10, 20, 30)
    result, _ = through(tmp_path, Image.fromarray(pixels), transparency=(10, 20, 30))
    assert np.asarray(result)[..., 3].tolist() == [[0, 255], [255, 255]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp"])
def test_orientation_and_exif_are_kept(tmp_path, orientation, ending):
    """The filter sees the picture upright; the file keeps its block, so a viewer turns it as before."""
    stored = np.zeros((16, 24, 3), np.uint8)
    stored[:8, :8] = 254
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010F] = orientation, "maker"
    image = Image.fromarray(stored)
    image.save(tmp_path / f"in.{ending}", exif=exif, quality=95)
    seen = []

    def darken_left(planes):
        seen.append(planes.shape)
        planes = planes.copy()
        planes[:, :, :4] /= 2
        return planes

    imaging.filter_file(tmp_path / f"in.{ending}", tmp_path / f"out.{ending}", darken_left)
    before, after = (
        np.asarray(ImageOps.exif_transpose(opened(tmp_path / f"{name}.{ending}"))).astype(int) for name in ("in", "out")
    )
    assert before.shape == after.shape
    assert seen == [(3, *before.shape[:2])]
    expected = before.copy()
    expected[:, :4] //= 2
    # JPEG and WebP lose a little; the picture turned another way would be off by dozens on average.
    assert np.abs(after - expected).mean() <= (0 if ending in ("png", "tiff") else 3)
    result = opened(tmp_path / f"out.{ending}")
    assert result.getexif()[0x010F] == "maker"
    if ending != "tiff":  # Pillow turns a TIFF's pixels as it reads them.
        assert result.getexif()[ORIENTATION] == orientation


def test_without_room_for_exif_the_picture_is_written_upright(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    pixels = gradient(3)
    result, _ = through(tmp_path, Image.fromarray(pixels), "in.png", "out.bmp", exif=exif)
    np.testing.assert_array_equal(np.asarray(result), np.rot90(pixels, -1))


def test_icc_profile_and_resolution_are_kept(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    result, _ = through(
        tmp_path, Image.fromarray(gradient(3)), "in.jpg", "out.jpg", icc_profile=profile, dpi=(300, 300)
    )
    assert result.info["icc_profile"] == profile
    assert result.info["dpi"] == (300, 300)


def test_what_cannot_be_kept_is_noted(tmp_path):
    frames = [Image.fromarray(gradient()) for _ in range(2)]
    frames[1].paste(0, (0, 0, 5, 5))
    _, notes = through(tmp_path, frames[0], "in.gif", save_all=True, append_images=frames[1:])
    assert notes == ["in.gif: has 2 frames; only the first is filtered"]
    path = tmp_path / "deep.png"
    path.write_bytes(_png_of_16_bit_colour())
    notes = []
    imaging.filter_file(path, tmp_path / "out.png", lambda planes: planes, notes.append)
    assert "16 bits a channel" in notes[0]


def _png_of_16_bit_colour():
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(7))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0 broken"])
def test_broken_files_raise_one_kind_of_error(tmp_path, data):
    (tmp_path / "in.png").write_bytes(data)
    with pytest.raises(imaging.ImageError):
        imaging.filter_file(tmp_path / "in.png", tmp_path / "out.png", lambda planes: planes)
    assert os.listdir(tmp_path) == ["in.png"]


def test_a_cut_off_file_is_broken(tmp_path):
    Image.fromarray(gradient(3, height=99, width=99)).save(tmp_path / "in.jpg")
    data = (tmp_path / "in.jpg").read_bytes()
    (tmp_path / "in.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(imaging.ImageError, match="truncated"):
        imaging.filter_file(tmp_path / "in.jpg", tmp_path / "out.jpg", lambda planes: planes)


def test_a_format_that_cannot_hold_the_result(tmp_path):
    with pytest.raises(imaging.ImageError, match="cannot be written as JPEG"):
        through(tmp_path, Image.fromarray(gradient(4)), out="out.jpg")
    with pytest.raises(imaging.ImageError, match="does not end as an image"):
        imaging.check_output_name(tmp_path / "out.xyz")
    assert os.listdir(tmp_path) == ["in.png"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error):
    Image.fromarray(gradient()).save(tmp_path / "in.png")
    (tmp_path / "out.png").write_bytes(b"old")

    def interrupted(image, path, **options):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(error):
        imaging.filter_file(tmp_path / "in.png", tmp_path / "out.png", lambda planes: planes)
    assert sorted(os.listdir(tmp_path)) == ["in.png", "out.png"]
    assert (tmp_path / "out.png").read_bytes() == b"old"


@pytest.mark.parametrize("name", list(filters.FILTERS))
def test_filters_match_scipy(name):
    sp = pytest.importorskip("scipy.ndimage")
    x = np.random.default_rng(1).random((2, 20, 23))
    ours = filters.apply(filters.make(name), x, padding_mode="mirror")
    (kernel, *_), *_ = filters.make(name).branches
    for plane, result in zip(x, ours, strict=True):
        expected = {
            "identity": lambda p: p,
            "box": lambda p: sp.uniform_filter(p, 5, mode="mirror"),
            "gaussian": lambda p: sp.gaussian_filter(p, 2.0, mode="mirror"),
            "sobel": lambda p: np.hypot(sp.sobel(p, 0, mode="mirror"), sp.sobel(p, 1, mode="mirror")),
            "laplace": lambda p: np.abs(sp.laplace(p, mode="mirror")),
        }.get(name, lambda p: sp.correlate(p, kernel, mode="mirror"))(plane)
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-13)


def test_even_kernels_are_centred_as_scipys():
    sp = pytest.importorskip("scipy.ndimage")
    x, kernel = np.random.default_rng(1).random((1, 6, 7)), np.array([[1.0, 2.0], [3.0, 4.0]])
    ours = filters.apply(filters.from_kernel(kernel), x, padding_mode="wrap")
    np.testing.assert_allclose(ours[0], sp.correlate(x[0], kernel, mode="wrap"), rtol=1e-14)
