"""The pose model: a backbone and a head, their configuration, and their weights on disk.

A folder of weights holds `model.safetensors`, `config.json` and `README.md` (the model card), which is the
Hugging Face layout. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dfmamba.backbones import backbone_config, create_backbone
from dfmamba.heads import HeadConfig, build_head, head_config
from dfmamba.heads.build import AnyHeadConfig
from dfmamba.heads.detector import DetectorConfig
from dfmamba.io.files import write_atomic
from dfmamba.layers import DRAWING, fuse
from dfmamba.machine import check_device
from dfmamba.settings import from_values

if TYPE_CHECKING:
    from dfmamba.predict.result import Prediction

PACKAGED = Path(__file__).parents[1] / "weights"
"""Folder of the weights that ship with the package."""

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"


@dataclass(frozen=True)
class ModelConfig:
    """Everything that defines a pose model.

    Attributes:
        name: how it is called in results.
        backbone: a name of `dfmamba.list_backbones()`.
        backbone_args: fields of the backbone's configuration to change.
        out_indices: stages whose maps the head gets.
        in_chans: channels of the picture: 3 for RGB, 1 for depth.
        head: settings of the head; `head.image_size` is the side of the crop.
        license: licence of the weights.
        input_scale: the backbone sees `input_scale * x + input_shift`.
        input_shift: likewise.
        framework: settings of the framework that the model was trained in (`dfmamba.frameworks`), by which it
            is evaluated; None for models of the predictor.
    """

    name: str
    backbone: str
    backbone_args: Mapping[str, Any] = field(default_factory=dict)
    out_indices: tuple[int, ...] = (1, 2, 3)
    in_chans: int = 3
    head: AnyHeadConfig = field(default_factory=HeadConfig)
    license: str = "Apache-2.0"
    input_scale: float = 2.0
    input_shift: float = -1.0
    framework: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "out_indices", tuple(self.out_indices))
        backbone_config(self.backbone, **self.backbone_args)

    @property
    def image_size(self) -> int:
        """Side of the square crop that the model sees, in pixels."""
        return self.head.image_size

    @property
    def detects(self) -> bool:
        """Whether it is a detector of hands, not a pose model."""
        return isinstance(self.head, DetectorConfig)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Builds from plain values, as `to_dict` gives them.

        Raises:
            ValueError: an unknown or missing key, or an unusable value.
        """
        missing = sorted({"name", "backbone"} - set(values))
        if missing:
            raise ValueError(f"model setting {missing[0]!r} is missing")
        head = values.get("head", {})
        if not isinstance(head, Mapping):
            raise ValueError(f"model setting 'head' is {reprlib.repr(head)}, expected settings by name")
        built = {**values, "head": head_config(head)}
        return from_values(cls, built, "model")

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        values = asdict(replace(self, head=HeadConfig()))
        return {**values, "out_indices": list(self.out_indices), "head": self.head.to_dict()}


MODELS: dict[str, ModelConfig] = {
    "nano": ModelConfig(
        name="nano",
        backbone="dfmamba_nano",
        head=HeadConfig(image_size=128, num_layers=0, dim=96, anchor_stride=8),
    ),
    "tiny_a2j": ModelConfig(
        name="tiny_a2j",
        backbone="dfmamba_tiny",
        head=HeadConfig(image_size=256, num_layers=6),
    ),
    "detector": ModelConfig(
        name="detector",
        backbone="dfmamba_nano",
        head=DetectorConfig(image_size=160, width=64),
    ),
    "test_detector": ModelConfig(
        name="test_detector",
        backbone="dfmamba_test",
        head=DetectorConfig(image_size=64, width=16),
    ),
    "test": ModelConfig(
        name="test",
        backbone="dfmamba_test",
        head=HeadConfig(image_size=64, num_layers=0, dim=16, anchor_stride=8),
    ),
}


class HandPoseModel(nn.Module):
    """Crop in, joints out.

    Args:
        config: architecture.

    Shape: (B, in_chans, S, S) with values in [0, 1] (RGB / 255, or normalised depth), to what the head gives:
    two hands in 2.5D as `HandPoseOutput`, or the maps of `dfmamba.heads.detnet` or `dfmamba.heads.detector`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = create_backbone(
            config.backbone,
            features_only=True,
            out_indices=config.out_indices,
            **{**config.backbone_args, "in_chans": config.in_chans},
        )
        info: Any = self.backbone.feature_info
        self.head = build_head(info.channels(), info.reduction(), config.head)

    def forward(self, x: Tensor) -> Any:
        x = x.to(next(self.backbone.parameters(), x).dtype)
        return self.head(self.backbone(x * self.config.input_scale + self.config.input_shift))

    def predict(self, image: Any, **options: Any) -> Prediction:
        """Finds the hands of one image; see `dfmamba.predict.Predictor.predict`."""
        import dfmamba  # the package's door knows who predicts; this floor doesn't

        tensors = [*self.parameters(), *self.buffers()]
        device = next((one.device for one in tensors), torch.device("cpu"))
        # A predictor holds copies of the weights: made anew where they changed.
        state = (device, [(one.data_ptr(), one._version) for one in tensors])
        if self._predictor is None or self._predictor[0] != state:
            self._predictor = (state, dfmamba.Predictor(self, device=str(device)))
        return self._predictor[1].predict(image, **options)

    _predictor: tuple[Any, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_predictor"}

    def fuse(self) -> HandPoseModel:
        """A faster copy for inference, with the same outputs; see `dfmamba.layers.fuse`."""
        return fuse(self)

    def save(self, folder: str | Path, half: bool = False, card: str | None = None) -> None:
        """Writes weights, configuration and model card.

        Args:
            folder: made if needed.
            half: store the parameters in half precision. Running statistics keep theirs: variances may be too
                large for it.
            card: text of the model card, to which the hub's front matter is added; None leaves an existing
                card alone.
        """
        from safetensors.torch import save

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        parameters = {name for name, _ in self.named_parameters()}
        state = {
            name: (t.half() if half and name in parameters else t).contiguous().cpu()
            for name, t in self.state_dict().items()
        }
        write_atomic(folder / WEIGHTS_FILE, save(state, {"format": "pt"}))
        text = json.dumps(self.config.to_dict(), indent=2) + "\n"
        write_atomic(folder / CONFIG_FILE, text.encode())
        if card is not None:
            write_atomic(folder / "README.md", (front_matter(self.config) + card).encode())

    def save_pretrained(self, folder: str | Path) -> None:
        """As `save`, by the name that Hugging Face's libraries use, with a model card if there is none yet.

        `from_pretrained` reads the folder, and a repository of the hub with these files.

        Raises:
            OSError: the folder can't be written.
        """
        card = None if (Path(folder) / "README.md").exists() else f"\n# {self.config.name}\n\n{_CARD}"
        self.save(folder, card=card)

    @classmethod
    def from_pretrained(cls, source: str | Path, device: str = "cpu") -> HandPoseModel:
        """Reads a model from a folder, or from a repository of the Hugging Face hub by its id.

        Raises:
            OSError: a file is missing.
            ValueError: a file is damaged or belongs to another model.
        """
        folder = Path(source)
        if not folder.is_dir():
            folder = _from_hub(str(source))
        return _read(cls, folder).to(device).eval()


_CARD = """\
    import dfmamba

    model = dfmamba.from_pretrained("FOLDER or OWNER/NAME")

To be filled in: what it was trained on, and how well it does.
"""


def _from_hub(name: str) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise FileNotFoundError(f"{name}: no such model or folder; known models: {', '.join(list_models())}")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(name, allow_patterns=[WEIGHTS_FILE, CONFIG_FILE, "README.md"]))
    except (HfHubHTTPError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise OSError(f"{name}: neither a folder nor a model that could be downloaded ({first})") from error


def front_matter(config: ModelConfig) -> str:
    """The head of a model card, from which the Hugging Face hub tells licence, library and task."""
    task = "object-detection" if config.detects else "keypoint-detection"
    tags = "".join(f"  - {tag}\n" for tag in ("hand-pose-estimation", "state-space-model", config.backbone))
    return (
        f"---\nlicense: {config.license.lower()}\nlibrary_name: dfmamba\npipeline_tag: {task}\n"
        f"tags:\n{tags}---\n\n"
    )


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside `DataParallel`, `DistributedDataParallel` and what `torch.compile` gives."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = model.module if isinstance(model, parallel) else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


LARGEST_CONFIG = 1 << 20
"""Bytes; a longer config.json is none of ours."""


class _Undrawn(TorchFunctionMode):
    """Leaves new parameters as memory that nobody has touched: a wrong configuration costs nothing.

    The meta device would do as well, but PyTorch imports its compiler for sums there, which takes seconds.
    And filling large parameters starts PyTorch's threads, after which a program can't fork.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FILLING and isinstance(args[0], nn.Parameter):
            return args[0]
        return func(*args, **(kwargs or {}))

    def __enter__(self) -> Any:
        self.token = DRAWING.set(False)
        return super().__enter__()

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)
        DRAWING.reset(self.token)


_FILLING = (Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_, Tensor.copy_)


def _read(cls: type[HandPoseModel], folder: Path) -> HandPoseModel:
    """A model with the weights of a folder, in float32 on the CPU whatever the process's defaults are.

    The file's header is compared with a network without values before anything is written. No
    operator of PyTorch that uses several threads runs, so that a program may still fork afterwards.
    """
    path = folder / CONFIG_FILE
    if not path.is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise FileNotFoundError(f"{folder}: no model here; expected {CONFIG_FILE} and {WEIGHTS_FILE}")
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError(f"it has more than {LARGEST_CONFIG} bytes")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it holds no settings")
        with torch.device("cpu"), _Undrawn():
            model = cls(ModelConfig.from_dict(values))
    except ImportError:
        raise
    except Exception as error:  # whatever a damaged value leads to
        said = str(error) or type(error).__name__
        raise ValueError(f"{path}: not a model configuration ({said[:200]})") from error
    state = _matching_weights(folder / WEIGHTS_FILE, model)
    with torch.device("cpu"):
        model.load_state_dict(state, assign=True)
        for part in model.modules():
            for name, value in getattr(part, "constants", dict)().items():
                part.register_buffer(name, value, persistent=False)
    if any(one.is_floating_point() and one.dtype != torch.float32 for one in model.buffers()):
        model.float()  # constants of timm's networks
    return model


def _matching_weights(path: Path, model: HandPoseModel) -> dict[str, Tensor]:
    """The tensors of a file, floating ones in float32, if they are those of the model.

    Raises:
        ValueError: they are not, or the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            wrong = [name for name in own if found.get(name) != own[name]]
            extra = [name for name in found if name not in own]
            state = {} if wrong or extra else {name: file.get_tensor(name) for name in own}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: weights can't be read, the file is damaged ({error})") from error
    if wrong or extra:
        raise ValueError(
            f"{path}: weights of another model: {len(wrong)} tensors missing or of another shape, "
            f"{len(extra)} unknown (first: {(wrong + extra)[0]}); config.json describes {model.config.name!r}"
        )
    return {name: _single(value, name, path) for name, value in state.items()}


def _single(value: Tensor, name: str, path: Path) -> Tensor:
    if not value.is_floating_point():
        return value
    if value.dtype not in (torch.float16, torch.float32, torch.float64):
        value = value.float()
    array = value.numpy()
    if not np.isfinite(array).all():
        raise ValueError(f"{path}: weights can't be used, {name} holds values that are not finite")
    return torch.from_numpy(np.array(array, dtype=np.float32))


def load(name: str | Path = "nano", device: str = "cpu") -> Any:
    """Loads a trained model, ready to predict.

    Args:
        name: a packaged model, a folder, a hub id "owner/name", or NAME.onnx from `dfmamba export`.
        device: a torch device such as "cpu" or "cuda".

    Raises:
        OSError: no such model, or a file is missing.
        ValueError: a file is damaged, of another model, or the device is unknown or absent.
        ImportError: an ONNX file, but no onnxruntime.

    Returns:
        A `HandPoseModel`; of an ONNX file a `dfmamba.models.onnx_model.OnnxModel`, which is called like one.

    Examples:
        >>> model = load("nano")
        >>> model.config.image_size
        96
    """
    if str(name).endswith(".onnx"):
        from dfmamba.models.onnx_model import OnnxModel

        check_device(device)
        return OnnxModel(name)
    folder = PACKAGED / str(name)
    source = folder if (folder / CONFIG_FILE).is_file() else name
    return HandPoseModel.from_pretrained(source, str(check_device(device)))


def from_pretrained(source: str | Path, device: str = "cpu") -> HandPoseModel:
    """Reads a model from a folder (the Hugging Face layout), or from a repository of the hub by its id.

    Raises:
        OSError: no such folder or repository, or it can't be reached.
        ValueError: a file is damaged, of another model, or the device is unknown or absent.
    """
    return HandPoseModel.from_pretrained(source, str(check_device(device)))


def list_models() -> list[str]:
    """Names of the trained pose models that ship with the package."""
    return [name for name, detects in _packaged() if not detects]


def list_detectors() -> list[str]:
    """Names of the trained detectors of hands that ship with the package."""
    return [name for name, detects in _packaged() if detects]


def _packaged() -> list[tuple[str, bool]]:
    """Name of each packaged model, and whether it is a detector."""
    return [
        (path.parent.name, ModelConfig.from_dict(json.loads(path.read_text(encoding="utf-8"))).detects)
        for path in sorted(PACKAGED.glob(f"*/{CONFIG_FILE}"))
    ]


def count_parameters(module: nn.Module) -> int:
    """Number of trainable and frozen parameters."""
    return sum(p.numel() for p in module.parameters())


def count_macs(module: nn.Module, shape: tuple[int, ...], scans: bool = False) -> int:
    """Multiply-adds of a forward pass.

    Args:
        module: takes one tensor.
        shape: of that tensor.
        scans: also count selective scans (9 operations a state and step, as VMamba counts them, taken as 4.5)
            and deformable sampling (4 neighbours and a weight an anchor and channel). Published figures and
            other tools mostly count convolutions and matrix products only.
    """
    from torch.utils.flop_counter import FlopCounterMode

    import dfmamba.ops  # noqa: F401 (registers the operators)

    def of_scan(u: Any, delta: Any, A: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return 9 * math.prod(u) * A[-1]

    def of_sampling(x: Any, offsets: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return 2 * 5 * offsets[2] * math.prod(x)

    def of_attention(q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return 2 * math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])

    own = torch.ops.dfmamba
    # PyTorch 2.7 doesn't count attention on a CPU.
    custom: dict[Any, Any] = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: of_attention}
    if scans:
        custom |= {own.selective_scan: of_scan, own.deformable_sample: of_sampling}
    training = [part for part in module.modules() if part.training]
    first = next(module.parameters())
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=custom) as counter:
        module.eval()(torch.zeros(shape, device=first.device, dtype=first.dtype))
    for part in training:
        part.training = True
    return counter.get_total_flops() // 2


def describe(name: str) -> dict[str, Any]:
    """Facts about a packaged model: size, cost, licence, input."""
    model = load(name)
    size = model.config.image_size
    return {
        "name": name,
        "backbone": model.config.backbone,
        "parameters": count_parameters(model),
        "macs": count_macs(model, (1, model.config.in_chans, size, size)),
        "image_size": size,
        "in_chans": model.config.in_chans,
        "license": model.config.license,
    }
