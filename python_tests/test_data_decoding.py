import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from proxyless_ext.data.bad_pictures import PictureError
from proxyless_ext.data.decoding import decode
from proxyless_ext.errors import UserError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def saved(tmp_path: Path, image: Image.Image, name: str = "picture.png", **options: object) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


def decoded(path: Path) -> np.ndarray:
    """[H, W, 3]"""
    pixels = decode(path)
    assert pixels.dtype == torch.uint8
    return pixels.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.ppm", "a.tiff"])
def test_rgb_comes_back_exactly(tmp_path, name):
    np.testing.assert_array_equal(decoded(saved(tmp_path, Image.fromarray(RGB), name)), RGB)


def test_the_name_need_not_fit_the_format(tmp_path):
    path = tmp_path / "picture.jpg"
    Image.fromarray(RGB).save(path, format="png")
    np.testing.assert_array_equal(decoded(path), RGB)


def test_greyscale(tmp_path):
    grey = RGB[..., 0]
    expected = np.stack([grey] * 3, axis=-1)
    np.testing.assert_array_equal(decoded(saved(tmp_path, Image.fromarray(grey))), expected)


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_16_bit_greyscale_is_scaled_not_clipped(tmp_path, name):
    grey = np.array([[0, 128, 129, 256], [30000, 32768, 65406, 65535]], dtype=np.uint16)
    expected = np.round(grey.astype(np.float64) * 255 / 65535)
    pixels = decoded(saved(tmp_path, Image.fromarray(grey), name))
    for channel in range(3):
        np.testing.assert_array_equal(pixels[..., channel], expected)


def test_black_and_white(tmp_path):
    bits = RGB[..., 0] > 127
    expected = np.stack([bits * 255] * 3, axis=-1)
    np.testing.assert_array_equal(decoded(saved(tmp_path, Image.fromarray(bits))), expected)


def test_palette(tmp_path):
    colours = RGB.reshape(-1, 3)[:4]
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4) % 4
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes(), "RGB")
    assert image.mode == "P"
    np.testing.assert_array_equal(decoded(saved(tmp_path, image)), colours[indices])


def test_a_transparent_colour_of_a_palette_is_white(tmp_path):
    indices = np.arange(6, dtype=np.uint8).reshape(2, 3) % 2
    image = Image.fromarray(indices)
    image.putpalette([10, 20, 30, 40, 50, 60], "RGB")
    pixels = decoded(saved(tmp_path, image, transparency=0))
    expected = np.array([[255, 255, 255], [40, 50, 60]])[indices]
    np.testing.assert_array_equal(pixels, expected)


def test_transparency_lets_white_through(tmp_path):
    alpha = np.random.default_rng(1).integers(0, 256, RGB.shape[:2], dtype=np.uint8)
    image = Image.fromarray(np.dstack([RGB, alpha]))
    opacity = alpha[..., None] / 255
    expected = RGB * opacity + 255 * (1 - opacity)
    pixels = decoded(saved(tmp_path, image)).astype(float)
    assert np.abs(pixels - expected).max() <= 1


def test_greyscale_with_alpha(tmp_path):
    image = Image.fromarray(np.dstack([RGB[..., 0], np.full(RGB.shape[:2], 255, np.uint8)]))
    assert image.mode == "LA"
    expected = np.stack([RGB[..., 0]] * 3, axis=-1)
    np.testing.assert_array_equal(decoded(saved(tmp_path, image)), expected)


def test_cmyk(tmp_path):
    ink = np.zeros((8, 8, 4), np.uint8)
    ink[..., 0] = 255  # Cyan: red light is absorbed.
    path = saved(tmp_path, Image.fromarray(ink, mode="CMYK"), "a.jpg", quality=100)
    np.testing.assert_allclose(decoded(path), np.broadcast_to([0, 255, 255], (8, 8, 3)), atol=2)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
        (8, np.rot90),
    ],
)
def test_pictures_are_turned_as_their_camera_says(tmp_path, orientation, upright):
    image = Image.fromarray(RGB)
    image.getexif()[0x0112] = orientation
    path = saved(tmp_path, image, exif=image.getexif())
    np.testing.assert_array_equal(decoded(path), upright(RGB))


def test_floating_point_pixels_are_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(RGB[..., 0].astype(np.float32)), "a.tiff")
    with pytest.raises(PictureError, match="known range"):
        decode(path)


def test_integers_beyond_16_bits_are_refused(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.full((2, 2), 70000, np.int32)), "a.tiff")
    with pytest.raises(PictureError, match="outside 16 bits"):
        decode(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "known format"), (b"hello", "known format"), (None, "No such file")],
)
def test_what_is_no_picture_is_named(tmp_path, content, reason):
    path = tmp_path / "cat.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as raised:
        decode(path)
    assert str(path) in str(raised.value)
    assert "data.bad_pictures" in str(raised.value)


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "tiff", "webp"])
def test_a_truncated_picture_is_named(tmp_path, kind):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8)).save(
        buffer, format=kind
    )
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(PictureError) as raised:
        decode(path)
    assert raised.value.path == path
    assert raised.value.reason
    assert "\n" not in str(raised.value)


@given(
    kind=st.sampled_from(["png", "jpeg", "tiff", "webp"]),
    place=st.floats(0, 1, exclude_max=True),
    change=st.integers(1, 255),
    end=st.floats(0, 1),
)
def test_damage_gives_pixels_or_a_picture_error(tmp_path_factory, kind, place, change, end):
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, format=kind)
    content = bytearray(buffer.getvalue())
    content[int(place * len(content))] ^= change
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    path.write_bytes(content[: round(end * len(content))])
    with contextlib.suppress(PictureError):
        assert decode(path).shape[0] == 3
