"""Reading pictures: every format and colour mode, and every way in which a file can be wrong."""

from __future__ import annotations

import base64
import os
import struct
import sys
import tempfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

import dfmamba
from dfmamba.io import MAX_MEGAPIXELS, as_picture, find_images, list_images, load_image
from dfmamba.io.images import PictureTooLargeError, UnsupportedPictureError, decode_image, encode_drawing


def gradient(width: int = 24, height: int = 16) -> np.ndarray:
    """Smooth colours, so that lossy formats stay close."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, 128 + 0 * x], axis=2).astype(np.uint8)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "tolerance"), [("PNG", 0), ("BMP", 0), ("TIFF", 0), ("JPEG", 12), ("WEBP", 16), ("GIF", 40)]
)
def test_formats(tmp_path: Path, kind: str, tolerance: int) -> None:
    path = tmp_path / f"picture.{kind.lower()}"
    path.write_bytes(encode(Image.fromarray(gradient()), kind))
    loaded = load_image(path)
    assert loaded.dtype == np.uint8
    assert loaded.shape == (16, 24, 3)
    assert np.abs(loaded.astype(int) - gradient()).max() <= tolerance


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("1", "PNG"),
        ("L", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("CMYK", "JPEG"),
        ("CMYK", "TIFF"),
        ("YCbCr", "TIFF"),
        ("RGBA", "WEBP"),
    ],
)
def test_colour_modes_of_a_red_picture(tmp_path: Path, mode: str, kind: str) -> None:
    path = tmp_path / "picture"
    path.write_bytes(encode(Image.new("RGB", (9, 7), (255, 0, 0)).convert(mode), kind))
    loaded = load_image(path)
    assert loaded.shape == (7, 9, 3)
    if mode == "1":
        assert set(np.unique(loaded)) <= {0, 255}
    else:
        expected = (76, 76, 76) if mode in ("L", "LA") else (255, 0, 0)
        assert np.abs(loaded.astype(int) - expected).max() <= 4


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[:, 3:, 3] = 255
    Image.fromarray(pixels, "RGBA").save(tmp_path / "alpha.png")
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([0, 0, 0, 0, 200, 0])
    palette.save(tmp_path / "palette.png", transparency=1)
    assert load_image(tmp_path / "alpha.png")[0].tolist() == [[255] * 3] * 3 + [[0] * 3] * 3
    assert (load_image(tmp_path / "palette.png") == 255).all()


def test_16_bit_grey_is_scaled(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    for name in ("deep.png", "deep.tiff"):
        Image.fromarray(values).save(tmp_path / name)
        assert load_image(tmp_path / name)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_floating_grey(tmp_path: Path) -> None:
    path = tmp_path / "float.tiff"
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(path)
    assert load_image(path)[0, :, 1].tolist() == [0, 128, 255]
    Image.fromarray(np.array([[0.0, 12.0, 255.0]], np.float32)).save(path)
    assert load_image(path)[0, :, 1].tolist() == [0, 12, 255]
    Image.fromarray(np.array([[0.0, np.nan]], np.float32)).save(path)
    with pytest.raises(ValueError, match=r"float\.tiff: grey values"):
        load_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation(tmp_path: Path, kind: str, orientation: int) -> None:
    upright = Image.fromarray(gradient())
    stored = {
        1: lambda image: image,
        2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
        4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
        6: lambda image: image.transpose(Image.Transpose.ROTATE_90),
        7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
        8: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned"
    path.write_bytes(encode(stored, kind, exif=exif))
    assert np.abs(load_image(path).astype(int) - gradient()).max() <= 12


def test_damaged_exif_does_not_spoil_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "exif.jpg"
    path.write_bytes(encode(Image.fromarray(gradient()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"))
    assert load_image(path).shape == (16, 24, 3)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims to be of this size."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + bytes(4) + end


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue")]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"just some text", "not a picture"),
        (encode(Image.fromarray(gradient(90, 90)), "JPEG")[:700], "damaged or truncated"),
        (encode(Image.fromarray(gradient()), "PNG")[:60], "damaged or truncated"),
        (png_header(12000, 9000), f"12000 x 9000, the limit is {MAX_MEGAPIXELS} megapixels"),
        (png_header(60000, 60000), "too large"),
        (animation("GIF"), "animated picture"),
        (animation("PNG"), "animated picture"),
        (animation("WEBP"), "animated picture"),
        (animation("TIFF"), "several pages"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unusable_files_name_file_and_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "odd name.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="odd name") as caught:
        load_image(path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="odd name") as again:
        decode_image(content, str(path))
    assert (type(again.value), str(again.value)) == (type(caught.value), str(caught.value))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (png_header(12000, 9000), PictureTooLargeError),
        (png_header(60000, 60000), PictureTooLargeError),
        (animation("GIF"), UnsupportedPictureError),
        (animation("TIFF"), UnsupportedPictureError),
        (b"just some text", UnsupportedPictureError),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", UnsupportedPictureError),
        (encode(Image.fromarray(gradient()), "PNG")[:60], ValueError),
        (b"", ValueError),
    ],
    ids=["large", "huge", "animated", "pages", "text", "avif", "damaged", "empty"],
)
def test_kinds_of_faults(content: bytes, kind: type[ValueError]) -> None:
    with pytest.raises(ValueError, match=r"^picture: ") as caught:
        decode_image(BytesIO(content))
    named = (PictureTooLargeError, UnsupportedPictureError)
    assert [one for one in named if isinstance(caught.value, one)] == [one for one in named if one is kind]


@pytest.mark.parametrize("rolled", [False, True], ids=["in memory", "on disk"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
        ("JPEG", {}),
        ("WEBP", {}),
        ("GIF", {}),
    ],
)
def test_open_files_are_read_from_their_start(
    tmp_path: Path, kind: str, options: dict[str, str], rolled: bool
) -> None:
    content = encode(Image.fromarray(gradient()), kind, **options)
    path = tmp_path / "picture"
    path.write_bytes(content)
    expected = load_image(path)
    assert np.array_equal(decode_image(content), expected)
    with tempfile.SpooledTemporaryFile(max_size=1 if rolled else 1 << 20) as file:
        file.write(content)
        for _ in range(2):
            assert np.array_equal(decode_image(file), expected)  # type: ignore[arg-type]


def test_other_formats_can_be_refused() -> None:
    content = encode(Image.fromarray(gradient()), "PNG")
    assert np.array_equal(decode_image(content, formats=("JPEG", "PNG")), gradient())
    with pytest.raises(UnsupportedPictureError, match=r"a: not a picture.*\(known: JPEG\)"):
        decode_image(content, "a", ("JPEG",))


def test_missing_file_folder_and_pipe(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_image(tmp_path / "nothing.png")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        load_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="not a regular file"):
        load_image(tmp_path / "pipe.png")
    with pytest.raises((ValueError, OSError)):
        load_image("bad\0name.png")


SEEDS = [
    encode(Image.fromarray(gradient()), "JPEG"),
    encode(Image.fromarray(gradient()), "PNG"),
    encode(Image.fromarray(gradient()).convert("P"), "GIF"),
    encode(Image.fromarray(gradient()), "BMP"),
    encode(Image.fromarray(gradient()), "TIFF"),
    encode(Image.fromarray(gradient()), "WEBP"),
]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=12),
    cut=st.none() | st.integers(0, 2000),
)
def test_fuzzed_bytes_give_a_picture_or_one_line(
    tmp_path: Path, seed: bytes, changes: list[tuple[int, int]], cut: int | None
) -> None:
    content = bytearray(seed)
    for position, value in changes:
        content[position % len(content)] = value
    path = tmp_path / "fuzzed.bin"
    path.write_bytes(content[:cut])
    problem = None
    try:
        loaded = load_image(path)
    except (ValueError, OSError) as error:
        problem = str(error)
    if problem is None:
        assert (loaded.dtype, loaded.ndim) == (np.uint8, 3)
    else:
        assert "fuzzed.bin" in problem
        assert "\n" not in problem


def test_as_picture_of_arrays_and_pillow_images() -> None:
    pixels = gradient()
    assert as_picture(pixels) is pixels
    assert np.array_equal(as_picture(pixels.astype(np.float32) / 255), pixels)
    assert as_picture(pixels[:, :, 0]).shape == (16, 24, 3)
    assert np.array_equal(as_picture(Image.fromarray(pixels)), pixels)
    assert as_picture(Image.new("L", (3, 2), 7)).tolist() == [[[7] * 3] * 3] * 2


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.zeros((4, 4, 4), np.uint8), "shape"),
        (np.zeros((3, 4, 4, 3), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
        (np.full((4, 4, 3), 200.0), "0..1"),
        (np.full((4, 4, 3), np.nan), "0..1"),
    ],
)
def test_as_picture_refuses(value: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        as_picture(value)


def test_as_picture_refuses_other_types() -> None:
    with pytest.raises(TypeError, match="list"):
        as_picture([[1, 2]])  # type: ignore[arg-type]


HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAA"
    "AAAAACJpbG9jAAAAAERAAAEAAQAAAAABoQABAAAAAAAAAHEAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAA"
    "AA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNw"
    "AAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZEAcFz"
    "wIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAMAAAAAEAAAAAAAAA"
    "Av////AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAAHltZGF0AAAAbSgBrwngOSMkv//8"
    "Eq/e/2QO//4rmcE4/cw///4qbrf+6wXUV2VhWyBv6lTxeL5SqdaxKkdyIbLV+IlkDVv6jxuISpfOYu4pdoI2JSdB9o1xMk4x"
    "jV6Xq42tUwV22zmAd3qM1/NUlN/4RXdfGzA="
)
"""64 x 48: the left half blue, the right half red; encoded by libheif."""


def test_heic_is_read_with_its_extra_and_named_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("pi_heif")
    path = tmp_path / "a.heic"
    path.write_bytes(HEIC)
    picture = load_image(path)
    assert picture.shape == (48, 64, 3)
    assert np.abs(picture[24, [10, 50]].astype(int) - [(20, 40, 220), (200, 30, 30)]).max() < 4
    assert list_images([tmp_path]).images == (path,)
    with pytest.raises(ValueError, match=r"a\.heic: damaged or truncated HEIC picture"):
        decode_image(HEIC[:200], str(path))
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(UnsupportedPictureError, match=r"a\.heic: HEIC: pip install 'dfmamba\[heif\]'"):
        load_image(path)
    (tmp_path / "b.jpg").write_bytes(b"")
    assert list_images([tmp_path]).notes == [
        f"{tmp_path}: left out 1 (a.heic): HEIC: pip install 'dfmamba[heif]', or save it as JPEG"
    ]


def raw_photo(**tags: object) -> bytes:
    """A TIFF of 8 x 8 pixels with such tags in its first directory."""
    numbers = {"subfile": 254, "old_subfile": 255, "sub_ifds": 330, "dng": 50706}
    facts = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        facts[numbers[name]] = value
        facts.tagtype[numbers[name]] = 1 if name == "dng" else 4
    memory = BytesIO()
    Image.fromarray(gradient()[:8, :8]).save(memory, "TIFF", tiffinfo=facts)
    return memory.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        raw_photo(subfile=1),
        raw_photo(dng=b"\1\4\0\0"),
        raw_photo(old_subfile=2),
        b"II*\0\x10\0\0\0CR\2\0" + bytes(60),
        b"FUJIFILMCCD-RAW 0201" + bytes(60),
        b"\0\0\0\x18ftypcrx \0\0\0\1" + bytes(60),
    ],
    ids=["thumbnail first", "DNG", "old thumbnail", "CR2", "RAF", "CR3"],
)
def test_raw_photos_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "photo.tif"
    path.write_bytes(content)
    with pytest.raises(UnsupportedPictureError, match=r"photo\.tif: a raw photo of a camera: develop it"):
        load_image(path)


def test_a_tiff_with_a_larger_picture_inside_is_a_raw_photo(tmp_path: Path) -> None:
    """The directory of the first picture points at a second one of 90 x 90 pixels, as in NEF."""
    small = raw_photo(sub_ifds=1234567)
    inner = struct.pack("<HHHIIHHIII", 2, 256, 4, 1, 90, 257, 4, 1, 90, 0)
    for side, raw in ((inner, True), (inner.replace(b"\x5a", b"\x05"), False)):
        content = small.replace(struct.pack("<I", 1234567), struct.pack("<I", len(small))) + side
        if raw:
            with pytest.raises(UnsupportedPictureError, match="a raw photo"):
                decode_image(content)
        else:  # as reduced copies of a large scan
            assert decode_image(content).shape == (8, 8, 3)


def test_a_folder_names_what_it_leaves_out(tmp_path: Path) -> None:
    picture = Image.fromarray(gradient())
    for name in ("a.jpg", "b.jfif", "c.JPE", "d.mpo"):
        picture.save(tmp_path / name, "JPEG")
    picture.save(tmp_path / "plain.png")
    (tmp_path / "drawing.png").write_bytes(encode_drawing(picture))
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "e\x1b.NEF").write_text("")
    (tmp_path / ".hidden.txt").write_text("")
    (tmp_path / "folder").mkdir()
    found = list_images([tmp_path])
    assert [path.name for path in found.images] == ["a.jpg", "b.jfif", "c.JPE", "d.mpo", "plain.png"]
    assert sorted(path.name for path, _ in found.left_out) == [
        "drawing.png", "e\x1b.NEF", "folder", "gone.jpg", "notes.txt"
    ]  # fmt: skip
    assert any("(drawing.png): a drawing of this program" in note for note in found.notes)
    assert any("(gone.jpg): a link to a file that doesn't exist" in note for note in found.notes)
    assert any("(e\\x1b.NEF): a raw photo" in note for note in found.notes)
    assert list_images([f"{tmp_path}/*"]) == found
    # Named, a drawing is read.
    assert list_images([tmp_path / "drawing.png"]).images == (tmp_path / "drawing.png",)
    assert np.array_equal(load_image(tmp_path / "drawing.png"), gradient())


def test_closed_and_truncated_pillow_images_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(gradient()).save(path)
    with Image.open(path) as closed:
        pass
    content = path.read_bytes()
    with Image.open(BytesIO(content[: len(content) // 2])) as truncated:
        for image in (closed, truncated):
            with pytest.raises(ValueError, match="hand: this Pillow image can't be read"):
                as_picture(image, "hand")


def test_find_images(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "inner.jpg").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "notes.txt", "._a.png", "inner.jpg/c.png"):
        (folder / name).write_bytes(b"x")
    expected = [folder / "a.png", folder / "b.JPG"]
    assert find_images([folder]) == expected
    assert find_images([folder / "notes.txt"]) == [folder / "notes.txt"]
    assert find_images([f"{folder}/*"]) == expected
    assert find_images([folder / "b.JPG", folder]) == [folder / "b.JPG", folder / "a.png"]
    (folder / "odd[1].png").write_bytes(b"x")
    assert find_images([folder / "odd[1].png"]) == [folder / "odd[1].png"]


def test_find_images_finds_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"x")
    with pytest.raises(ValueError, match="no pictures in this folder"):
        find_images([tmp_path])
    with pytest.raises(ValueError, match="no pictures match"):
        find_images([f"{tmp_path}/*.jpg"])
    with pytest.raises(FileNotFoundError, match="no such file"):
        find_images([tmp_path / "a.jpg"])


def test_every_sample_picture_loads(samples_dir: Path) -> None:
    pictures = [
        path
        for folder in ("photos", "freihand", "onehand10k")
        for path in find_images([samples_dir / folder])
    ]
    assert len(pictures) >= 10
    for path in pictures:
        assert load_image(path).shape[2] == 3


def test_images_from_elsewhere_are_opened_in_one_place() -> None:
    """Pillow alone would try every format it knows, and starts Ghostscript for PostScript under any name."""
    source = Path(dfmamba.__file__).parent
    opening = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if "Image.open(" in path.read_text()
    }
    assert opening == {"io/images.py", "synth/post.py"}  # the latter reads JPEGs of its own from memory
