"""Pictures are decoded as a viewer shows them, values scaled by their range; what is odd is refused or told."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from omnirobust.zoo.pictures import Picture, as_floats, decode, resized, stacked, told

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def stored(picture, kind="PNG", **settings):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return io.BytesIO(buffer.getvalue())


def shown(file):
    """Return what a viewer shows of a file, as colours."""
    return np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_pictures_are_turned_as_cameras_say(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation  # 0 and 9 mean nothing
    file = stored(Image.fromarray(COLOUR), kind, exif=exif)
    assert np.array_equal(decode(file).pixels, shown(file))


def test_orientation_6_is_turned_by_hand():
    exif = Image.Exif()
    exif[0x0112] = 6  # what is stored as the left column is the top row
    pixels = decode(stored(Image.fromarray(GREY), exif=exif)).pixels
    assert pixels.tolist() == [[int(GREY[4 - j, i]) for j in range(5)] for i in range(7)]


@pytest.mark.parametrize("exif", [b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01"])
def test_broken_exif_stops_nothing(exif):
    plain, file = stored(Image.fromarray(COLOUR), "JPEG"), stored(Image.fromarray(COLOUR), "JPEG", exif=exif)
    assert np.array_equal(decode(file).pixels, decode(plain).pixels)


DEEP = RNG.integers(0, 65536, (5, 7)).astype(np.uint16)


@pytest.mark.parametrize(
    "file",
    [
        stored(Image.fromarray(DEEP)),
        stored(Image.fromarray(DEEP), "TIFF"),
        stored(Image.fromarray(DEEP.astype(">u2")), "TIFF"),
        io.BytesIO(b"P5 7 5 65535\n" + DEEP.astype(">u2").tobytes()),
    ],
    ids=["PNG", "TIFF", "TIFF, big-endian", "PGM"],
)
def test_16_bits_are_scaled_by_their_range(file):
    x = as_floats(stacked([decode(file)], "set"))
    assert np.allclose(x[0, 0].numpy(), DEEP / 65535, atol=1e-7)


def test_16_bit_colours_keep_at_least_8_of_them():
    values = RNG.integers(0, 65536, (2, 3, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0))
    file = io.BytesIO(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    x = as_floats(stacked([decode(file)], "set"))[0].numpy().transpose(1, 2, 0)
    assert np.abs(x - values / 65535).max() <= 1 / 255


@pytest.mark.parametrize(
    ("values", "what"), [(DEEP.astype(np.int32), "32-bit integers"), (GREY.astype(np.float32), "floating-point values")]
)
def test_what_has_no_known_range_is_refused(values, what):
    with pytest.raises(ValueError, match=f"it holds {what}, whose range is not known"):
        decode(stored(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_kind_of_picture_has_the_colours_that_it_shows(mode):
    picture = Image.fromarray(COLOUR).convert(mode)
    file = stored(picture, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    found, wanted = decode(file), shown(file)
    pixels = found.pixels if found.pixels.ndim == 3 else np.repeat(found.pixels[:, :, None], 3, 2)
    assert np.array_equal(pixels, wanted)
    assert (found.pixels.ndim == 2) == (mode in ("1", "L", "LA"))
    assert not found.transparent


def test_a_palette_shows_its_colours_not_its_indices():
    picture = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 128, 0, 0, 0, 64])
    expected = [[[255, 0, 0], [0, 128, 0]], [[0, 0, 64], [255, 0, 0]]]
    assert decode(stored(picture)).pixels.tolist() == expected
    assert decode(stored(picture, transparency=1)).transparent
    assert decode(stored(picture, transparency=1)).pixels.tolist() == expected


def test_what_is_not_taken_as_it_is_is_counted():
    seen_through = Image.fromarray(np.dstack([COLOUR, GREY]))
    frames = stored(Image.fromarray(GREY), "GIF", save_all=True, append_images=[Image.fromarray(255 - GREY)])
    pictures = [decode(f) for f in (stored(seen_through), frames, stored(Image.fromarray(GREY)))]
    assert np.array_equal(pictures[0].pixels, COLOUR)
    notes = "; ".join(told(pictures))
    assert "1 image transparent" in notes and "1 image of several frames" in notes
    assert sum(f"{n} image" in notes for n in (1, 2)) and "grey among coloured ones" in notes
    assert told([Picture(GREY), Picture(GREY)]) == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"])
def test_half_a_picture_is_refused(kind):
    content = stored(Image.fromarray(RNG.integers(0, 256, (60, 60, 3), dtype=np.uint8)), kind).getvalue()
    with pytest.raises(ValueError, match=r"."):
        decode(io.BytesIO(content[: len(content) // 2]))


@pytest.mark.parametrize("content", [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n"])
def test_what_is_no_picture_is_refused_and_no_other_program_run(content):
    with pytest.raises(ValueError, match="it is of no known format"):
        decode(io.BytesIO(content))


@pytest.mark.parametrize("limit", [20, 34])  # Pillow refuses beyond twice its limit, and only warns before
def test_pictures_beyond_the_limit_of_the_decoder_are_refused(monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match="exceeds limit of"):
        decode(stored(Image.fromarray(GREY)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 35)
    assert decode(stored(Image.fromarray(GREY))).pixels.shape == (5, 7)


@pytest.mark.parametrize("size", [(3, 4), (11, 9), (5, 7)])
def test_resizing_is_pillow_s(size):
    wanted = np.asarray(Image.fromarray(COLOUR).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    assert np.array_equal(decode(stored(Image.fromarray(COLOUR)), size).pixels, wanted)
    deep = resized(GREY.astype(np.uint16) * 257, size)
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - resized(GREY.astype(np.float32), size)).max() <= 0.5


def test_stacks_hold_grey_and_colour_8_and_16_bits():
    x = as_floats(stacked([Picture(GREY), Picture(COLOUR), Picture(DEEP)], "set")).numpy()
    for channel in range(3):
        assert np.allclose(x[:, channel], [GREY / 255, COLOUR[:, :, channel] / 255, DEEP / 65535], atol=1e-7)
    with pytest.raises(ValueError, match=r"set must have images of one shape, got \[\(5, 7\), \(6, 7\)\]: give resize"):
        stacked([Picture(GREY), Picture(np.zeros((6, 7), np.uint8))], "set")
