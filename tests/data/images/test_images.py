import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features

from innerloop.data.images import files
from innerloop.data.images.files import BadImage, is_image, open_image, read_image
from innerloop.pictures.sheet import Prediction, contact_sheet


def gradient(width=20, height=10):
    """Red grows to the right, green downwards."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width)[None]
    pixels[..., 1] = np.linspace(0, 255, height)[:, None]
    return Image.fromarray(pixels)


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "tif", "jpg"])
def test_every_format_gives_the_picture_in_the_right_orientation(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    gradient().save(path, **({"lossless": True} if suffix == "webp" else {}))
    image = read_image(path, (10, 20))
    assert image.shape == (3, 10, 20) and image.dtype == torch.uint8
    expected = torch.from_numpy(np.array(gradient())).permute(2, 0, 1).int()
    assert (image.int() - expected).abs().max() <= (40 if suffix == "jpg" else 0)


def test_size_and_grey(tmp_path):
    gradient().save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", 7, channels=1)
    assert image.shape == (1, 7, 7)
    assert image[0, 0, 0] < image[0, 0, 6] < image[0, 6, 6]


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", 4)
    assert (image[:, :2] == 0).all() and (image[:, 2:] == 255).all()


def test_the_orientation_tag_is_obeyed(tmp_path):
    tag = Image.Exif()
    tag[0x0112] = 6  # to be shown turned clockwise by 90 degrees
    gradient(20, 10).save(tmp_path / "a.png", exif=tag)
    image = read_image(tmp_path / "a.png", (20, 10))
    assert torch.equal(
        image, torch.from_numpy(np.array(gradient().rotate(-90, expand=True))).permute(2, 0, 1)
    )


def test_deep_greys_are_scaled_not_clipped(tmp_path):
    deep = np.array([[0, 32768], [65535, 257]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 2, channels=1)[0].tolist() == [[0, 128], [255, 1]]
    Image.fromarray(np.array([[0.0, 0.5], [1.0, 0.2]], np.float32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif", 2, channels=1)[0].tolist() == [[0, 128], [255, 51]]


def test_floats_that_are_no_pixels_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[0.0, np.nan], [1.0, np.inf]], np.float32)).save(path)
    with pytest.raises(BadImage, match=r"a\.tif: 2 of 4 pixels are NaN or infinite"):
        read_image(path, 2)
    Image.fromarray(np.array([[0.0, 200.0]], np.float32)).save(path)
    with pytest.raises(BadImage, match=r"must lie in 0\.\.1, got 0\.\.200"):
        read_image(path, 2)


def test_what_is_no_image_is_refused_by_name(tmp_path):
    text = tmp_path / "notes.png"
    text.write_text("not an image")
    with pytest.raises(BadImage, match=r"notes\.png: not a readable image"):
        read_image(text, 8)
    short = tmp_path / "short.jpg"
    gradient(200, 200).save(short)
    short.write_bytes(short.read_bytes()[:1500])
    with pytest.raises(BadImage, match=r"short\.jpg: not a readable image"):
        read_image(short, 8)
    with pytest.raises(FileNotFoundError, match=r"no image file .*none\.png"):
        read_image(tmp_path / "none.png", 8)


def test_impossible_sizes_are_refused(tmp_path):
    gradient().save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        read_image(tmp_path / "a.png", 0)
    with pytest.raises(ValueError, match="channels must be 1"):
        read_image(tmp_path / "a.png", 4, channels=4)


def test_what_counts_as_an_image_file(tmp_path):
    assert is_image(tmp_path / "a.JPG") and is_image(tmp_path / "b.tiff")
    assert not is_image(tmp_path / ".a.png") and not is_image(tmp_path / "a.txt")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


def png_header(width, height):
    """The start of an 8-bit grey PNG that says it is this large."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    end = struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + end + b"\0\0\0\4IDAT"


def test_postscript_under_the_name_of_a_picture_starts_no_interpreter(tmp_path, monkeypatch):
    """A stand-in for Ghostscript on the PATH would leave a file behind."""
    programs, path = tmp_path / "programs", tmp_path / "x.png"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    path.write_bytes(EPS)
    with pytest.raises(BadImage, match=r"x\.png: not a readable image .*PNG, JPEG, BMP, WEBP or"):
        read_image(path, 8)
    with pytest.raises(BadImage):
        contact_sheet([Prediction(path, "a", 1.0, None)], ["a"], "title")
    with pytest.raises(BadImage, match="its content is not PNG"), path.open("rb") as file:
        open_image(file, ("PNG",)).__enter__()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["GIF", "PPM", "TGA", "ICO", "DDS", "AVIF", "JPEG2000", "PCX"])
def test_formats_that_are_not_promised_are_refused(tmp_path, kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    path = tmp_path / "a.png"
    gradient().save(path, format=kind)
    with pytest.raises(BadImage, match=r"a\.png: not a readable image"):
        read_image(path, 8)


def test_images_that_say_they_are_huge_are_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    for side in (10_000, 60_000):  # Pillow warns of the first and raises for the second
        path.write_bytes(png_header(side, side))
        with pytest.raises(BadImage, match=r"bomb\.png.*decompression bomb"):
            read_image(path, 8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as programs do, for the whole process
    with pytest.raises(BadImage, match="60000 x 60000 pixels, at most 89478485 are read"):
        read_image(path, 8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_strips_are_the_image(tmp_path, mode, monkeypatch):
    rng, path = np.random.default_rng(0), tmp_path / "a.tif"
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (9, 7), dtype=np.uint16))
    elif mode == "F":
        image = Image.fromarray(rng.random((9, 7), dtype=np.float32))
    else:
        pixels = rng.integers(0, 256, (9, 7, 4), dtype=np.uint8)
        image = Image.fromarray(pixels).convert(mode)
    image.save(path)
    whole = [read_image(path, (9, 7), channels) for channels in (1, 3)]
    monkeypatch.setattr(files, "_STRIP", 14)  # two rows and a rest
    for channels, expected in zip((1, 3), whole, strict=True):
        assert torch.equal(read_image(path, (9, 7), channels), expected)


def test_deep_images_take_no_multiple_of_themselves(tmp_path):
    """A file of some kilobytes: 2 bytes per pixel are due, not the 8 of a float64, twice."""
    pixels = 4096 * 4096
    Image.fromarray(np.zeros((4096, 4096), np.uint16)).save(tmp_path / "a.png")
    tracemalloc.start()
    try:
        read_image(tmp_path / "a.png", 8, channels=1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * pixels
