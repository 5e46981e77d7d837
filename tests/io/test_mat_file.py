"""MATLAB files: what is read, and what is said of damaged ones."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat
from scipy.sparse import csc_array

from dfmamba.io.mat_file import read_mat

VALUES = {
    "names": np.array([["PALM_1", "TH_KNU3_A"]], dtype=object),
    "uvd": np.random.default_rng(0).normal(size=(3, 2, 4, 3)),
}


@pytest.fixture(scope="module", params=[True, False], ids=["compressed", "plain"])
def mat_file(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("mat") / "labels.mat"
    savemat(path, VALUES, do_compression=request.param)
    return path


def test_variables_are_read(mat_file: Path) -> None:
    found = read_mat(mat_file, ("uvd", "names"))
    assert list(found) == ["uvd", "names"]
    assert np.array_equal(found["uvd"], VALUES["uvd"])
    assert found["names"] == ["PALM_1", "TH_KNU3_A"]


@pytest.mark.parametrize(
    "dtype", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"], ids=lambda name: name
)
def test_types_of_numbers(dtype: str, tmp_path: Path) -> None:
    value = np.array([[1, 2, 3], [4, 100, 7]], dtype)
    savemat(tmp_path / "a.mat", {"a": value, "empty": np.zeros((0, 3), dtype)})
    found = read_mat(tmp_path / "a.mat", ("a", "empty"))
    assert found["a"].dtype == value.dtype
    assert np.array_equal(found["a"], value)
    assert found["empty"].shape == (0, 3)


def test_texts(tmp_path: Path) -> None:
    cells = np.empty((1, 3), dtype=object)
    cells[0] = ["ä", np.eye(2), np.array([["in", "ner"]], dtype=object)]
    savemat(tmp_path / "a.mat", {"rows": ["F1", "F22"], "one": "wrist", "cells": cells})
    found = read_mat(tmp_path / "a.mat", ("rows", "one", "cells"))
    assert found["rows"] == ["F1 ", "F22"]
    assert found["one"] == "wrist"
    assert found["cells"][0] == "ä"
    assert np.array_equal(found["cells"][1], np.eye(2))
    assert found["cells"][2] == ["in", "ner"]


@pytest.mark.parametrize("compressed", [True, False])
def test_big_endian_files(compressed: bool, tmp_path: Path) -> None:
    """A 1 x 2 array of class double, stored as 16-bit numbers in a short element, by hand."""
    parts = [(6, struct.pack(">II", 6, 0)), (5, struct.pack(">ii", 1, 2)), (1, b"abcdefgh")]
    body = b"".join(struct.pack(">II", kind, len(part)) + part for kind, part in parts)
    body += struct.pack(">HHhh", 4, 3, -7, 300)
    whole = struct.pack(">II", 14, len(body)) + body
    if compressed:
        packed = zlib.compress(whole)
        whole = struct.pack(">II", 15, len(packed)) + packed
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + whole)
    found = read_mat(tmp_path / "a.mat", ("abcdefgh",))["abcdefgh"]
    assert found.tolist() == [[-7.0, 300.0]]
    assert found.dtype == np.float64


def test_an_element_that_says_it_holds_far_more_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    zeros = struct.pack("<II", 14, 1 << 25) + bytes(1 << 25)
    packed = zlib.compress(zeros)
    path = tmp_path / "bomb.mat"
    path.write_bytes(b"MATLAB 5.0".ljust(124) + b"\x00\x01IM" + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(ValueError, match=r"bomb\.mat: .* bytes that says it holds 33554432"):
        read_mat(path, ("a",))


def test_real_file(samples_dir: Path) -> None:
    path = samples_dir / "nyu" / "test" / "test_predictions.mat"
    found = read_mat(path, ("conv_joint_names", "pred_joint_uvconf"))
    assert found["conv_joint_names"][:3] == ["PALM_3", "PALM_1", "PALM_2"]
    assert np.array_equal(found["pred_joint_uvconf"], loadmat(path)["pred_joint_uvconf"])


def test_what_is_wrong_is_named(mat_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"labels\.mat: variable 'xyz' is missing"):
        read_mat(mat_file, ("uvd", "xyz"))
    with pytest.raises(OSError, match=r"absent\.mat: cannot be read"):
        read_mat(tmp_path / "absent.mat", ("uvd",))
    for name, content, reason in (
        ("empty.mat", b"", "not a MATLAB file"),
        ("new.mat", b"MATLAB 7.3 MAT-file".ljust(512), "save it with -v7"),
        ("text.mat", b"1 2 3 " * 100, "not a MATLAB file"),
        ("half.mat", mat_file.read_bytes()[:-40], "damaged or incomplete"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}: .*{reason}"):
            read_mat(tmp_path / name, ("uvd",))
    for value in (1j * np.ones(2), {"a": 1.0}, csc_array(np.eye(2))):
        savemat(tmp_path / "other.mat", {"a": value})
        with pytest.raises(ValueError, match=r"other\.mat: .*expected numbers or texts"):
            read_mat(tmp_path / "other.mat", ("a",))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_bytes_give_a_result_or_one_error(data, mat_file: Path, tmp_path: Path) -> None:
    content = bytearray(mat_file.read_bytes())
    # Mostly where the structure is: the header, the first tags, the ends.
    places = st.one_of(st.integers(0, 300), st.integers(0, len(content) - 1))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(places) % len(content)] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    path = tmp_path / "mutated.mat"
    path.write_bytes(content[:cut])
    try:
        found = read_mat(path, ("names", "uvd"))
    except (ValueError, OSError) as error:
        assert "mutated.mat" in str(error)
    else:
        assert set(found) == {"names", "uvd"}
