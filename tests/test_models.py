"""Model files: round trips, damaged files, budgets."""

from __future__ import annotations

import json
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfmamba.models import (
    CONFIG_FILE,
    MODELS,
    WEIGHTS_FILE,
    HandPoseModel,
    ModelConfig,
    check_device,
    count_parameters,
    list_detectors,
    list_models,
    load,
    unwrapped,
)
from dfmamba.predict import Predictor


def model(seed: int = 0) -> HandPoseModel:
    torch.manual_seed(seed)
    return HandPoseModel(MODELS["test"]).eval()


@pytest.mark.parametrize("half", [False, True])
def test_round_trip(tmp_path: Path, half: bool) -> None:
    a = model()
    a.save(tmp_path / "m", half=half, card="# card\n")
    b = load(tmp_path / "m")
    assert b.config == a.config
    assert not b.training
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        tolerance = 0.5 if half else 0.0
        assert (a(x).joints_25d - b(x).joints_25d).abs().max() <= tolerance
    card = (tmp_path / "m" / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: dfmamba\n")
    assert card.endswith("---\n\n# card\n")


def test_half_precision_keeps_large_statistics(tmp_path: Path) -> None:
    a = model()
    for module in a.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.fill_(1e6)
    a.save(tmp_path, half=True)
    state = load(tmp_path).state_dict()
    variances = [t for name, t in state.items() if name.endswith("running_var")]
    assert len(variances) > 3
    assert all((t == 1e6).all() for t in variances)


def test_a_model_takes_the_whole_budget_of_the_paper() -> None:
    """The paper reports about 42 M parameters with the A2J decoder."""
    assert count_parameters(HandPoseModel(MODELS["tiny_a2j"])) <= 42e6
    assert count_parameters(HandPoseModel(MODELS["nano"])) <= 2e6


def test_config_survives_json() -> None:
    for config in MODELS.values():
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    a = model()
    with torch.no_grad():
        next(a.parameters()).flatten()[0] = float("inf")
    a.save(tmp_path)
    with pytest.raises(ValueError, match="not finite"):
        load(tmp_path)


def test_cut_weights_are_named(tmp_path: Path) -> None:
    model().save(tmp_path)
    path = tmp_path / WEIGHTS_FILE
    whole = path.read_bytes()
    for cut in (0, 4, 8, 1000, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=WEIGHTS_FILE):
            load(tmp_path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_config_gives_a_result_or_a_clear_error(tmp_path: Path, data) -> None:
    if not (tmp_path / WEIGHTS_FILE).exists():
        model().save(tmp_path)
    text = bytearray((json.dumps(MODELS["test"].to_dict())).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(32, 126))
    (tmp_path / CONFIG_FILE).write_bytes(bytes(text))
    try:
        load(tmp_path)
    except (ValueError, OSError) as error:
        assert str(tmp_path) in str(error)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    model().save(tmp_path)
    values = MODELS["test"].to_dict()
    values["head"]["dim"] = 32
    (tmp_path / CONFIG_FILE).write_text(json.dumps(values))
    with pytest.raises(ValueError, match="weights of another model"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"colour": 1}, "unknown model setting 'colour'"), ({"backbone": "x"}, "unknown backbone 'x'")],
)
def test_bad_settings_are_named(tmp_path: Path, change: dict, message: str) -> None:
    model().save(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(json.dumps({**MODELS["test"].to_dict(), **change}))
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no such model"):
        load("nothing-here")
    with pytest.raises(OSError, match="no model here"):
        load(tmp_path)


def test_unknown_device_is_named() -> None:
    for device in ("gpu9", "cuda:77"):
        with pytest.raises(ValueError, match="can't be used here"):
            check_device(device)


def test_padding_of_the_batch_does_not_matter() -> None:
    a = model()
    x = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        together, alone = a(x).joints_25d[:1], a(x[:1]).joints_25d
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-4)


def test_pose_models_and_detectors_are_listed_apart() -> None:
    assert list_models() == ["nano"]
    assert list_detectors() == ["detector"]
    with pytest.raises(ValueError, match="finds no joints"):
        Predictor("detector", "cpu")


def test_a_damaged_configuration_names_its_file_and_costs_no_memory(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    model().save(folder)
    path = folder / "config.json"
    text = path.read_text()
    good = json.loads(text)
    head = {**good["head"], "num_layers": 6, "dim": 256}
    damaged = {
        "deep": "[" * 50_000 + "]" * 50_000,
        "deep value": text.replace("null", '{"a":' * 20_000 + "1" + "}" * 20_000),
        "long number": text.replace('"in_chans": 3', '"in_chans": ' + "9" * 5_000),
        "long file": " " * 2_000_000 + text,
        "head of another kind": json.dumps({**good, "head": [1]}),
        "huge crop": json.dumps({**good, "head": {**good["head"], "image_size": 2**40}}),
        "huge network": json.dumps({**good, "head": {**head, "ffn": 2**34}}),
        "many layers": json.dumps({**good, "head": {**head, "num_layers": 10**9}}),
        "many blocks": json.dumps({**good, "backbone_args": {"stages": [["conv"] * 10_000] * 4}}),
    }
    for what, changed in damaged.items():
        path.write_text(changed)
        tracemalloc.start()
        with pytest.raises(ValueError, match=re.escape(str(folder))) as caught:
            load(folder)
        assert len(str(caught.value)) < 600, what
        assert tracemalloc.get_traced_memory()[1] < 100e6, what
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_loading_ignores_the_defaults_of_the_process(tmp_path: Path, dtype: torch.dtype) -> None:
    saved = model()
    saved.save(tmp_path / "m")
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            loaded = load(tmp_path / "m")
    finally:
        torch.set_default_dtype(torch.float32)
    assert {t.dtype for t in loaded.state_dict().values()} == {torch.float32, torch.int64}
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(x).joints_25d, saved(x).joints_25d)
        assert torch.allclose(saved.half()(x).joints_25d, loaded(x).joints_25d, atol=0.5)
        assert loaded(x[:0]).joints_25d.shape == (0, 2, 21, 3)


def test_predicting_leaves_a_model_in_training() -> None:
    training = model().train()
    training.head.eval()
    training.predict(np.zeros((64, 64, 3), np.uint8))
    assert training.training
    assert training.backbone.training
    assert not training.head.training


def test_the_network_in_a_wrapper_is_found() -> None:
    inner = model()
    wrapped = torch.nn.DataParallel(torch.compile(inner))  # type: ignore[arg-type]
    assert unwrapped(wrapped) is inner
    assert unwrapped(inner) is inner


@pytest.mark.parametrize("layers", [0, 1])
def test_heads_take_an_empty_batch(layers: int) -> None:
    config = MODELS["test"]
    head = replace(config.head, num_layers=layers, dim=32, heads=2, ffn=32)
    found = HandPoseModel(replace(config, head=head)).eval()(torch.zeros(0, 3, 64, 64))
    assert found.joints_25d.shape == (0, 2, 21, 3)
    assert HandPoseModel(MODELS["test_detector"]).eval()(torch.zeros(0, 3, 64, 64)).shape[0] == 0


@pytest.mark.parametrize("name", ["nano", "detector"])
def test_models_and_detectors_come_back_from_save_pretrained(name: str, tmp_path: Path) -> None:
    from safetensors import safe_open

    model = load(name)
    model.save_pretrained(tmp_path)
    again = HandPoseModel.from_pretrained(tmp_path)
    assert again.config == model.config
    for key, values in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], values), key
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: dfmamba\npipeline_tag: ")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
