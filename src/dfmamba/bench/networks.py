"""Backbones of a benchmark, ours and timm's, built by name."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dfmamba.backbones import create_backbone
from dfmamba.backbones.dfmamba import DeformableSampler, Tribrid
from dfmamba.backbones.registry import BACKBONES
from dfmamba.bench.contest import Entrant, Plan, Row, contest, relative_error, waiter
from dfmamba.models.native import NativeFeatures
from dfmamba.ops import native

PEERS = (
    "resnet50",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
    "vit_small_patch16_224",
    "mambaout_tiny",
)
NEEDS_TIMM = "timm is not installed (pip install 'dfmamba[bench]')"


@dataclass(frozen=True)
class Network:
    """A backbone by name.

    Attributes:
        label: as the tables show it.
        name: of `dfmamba.create_backbone` or `timm.create_model`.
        arguments: passed to it.
    """

    label: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        """Whether it is one of dfmamba's."""
        return self.name in BACKBONES

    @property
    def missing(self) -> str | None:
        """Why it can't be built here, or None."""
        return None if self.ours or importlib.util.find_spec("timm") else NEEDS_TIMM


class Features(nn.Module):
    """A network up to its last map or tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.forward_features(x)  # type: ignore[operator]


def networks(names: tuple[str, ...], size: int) -> list[Network]:
    """The named backbones for pictures of `size` pixels.

    Transformers are told the size. Swin appears twice where its usual window of 7 doesn't divide the map:
    with a window that does, and with 7, which pads.
    """
    found = []
    for name in names:
        if name.startswith("swin"):
            window = size // 32
            found.append(Network(f"{name}, window {window}", name, {"img_size": size, "window_size": window}))
            if window != 7:
                found.append(Network(f"{name}, window 7 (pads)", name, {"img_size": size, "window_size": 7}))
        elif "vit" in name.split("_"):
            found.append(Network(name, name, {"img_size": size}))
        else:
            found.append(Network(name, name))
    return found


def build(network: Network) -> Features:
    """The network with random weights and without classifier, in evaluation mode.

    Statistics of BatchNorm and predicted offsets are random too: as constructed they are the identity and
    zero, which neither time nor check the work of a trained network. Nothing is dropped in training, so that
    results can be compared.

    Raises:
        ImportError: a network of timm's without timm.
        ValueError: unknown name.
    """
    torch.manual_seed(0)
    if network.ours:
        model = create_backbone(network.name, **network.arguments)
    else:
        if network.missing:
            raise ImportError(network.missing)
        import timm

        try:
            model = timm.create_model(network.name, pretrained=False, num_classes=0, **network.arguments)
        except RuntimeError as error:
            known = f"{network.name!r} is neither a backbone of dfmamba nor of timm"
            raise ValueError(f"{known}: {error}") from None
    for module in model.modules():
        mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        if isinstance(mean, Tensor) and isinstance(variance, Tensor):
            nn.init.normal_(mean, std=0.1)
            nn.init.uniform_(variance, 0.5, 1.5)
        if isinstance(module, DeformableSampler):
            last = [m for m in module.branch.modules() if isinstance(m, nn.Conv2d)][-1]
            nn.init.normal_(last.weight, std=0.05)
        if hasattr(module, "drop_prob"):
            vars(module)["drop_prob"] = 0.0
    return Features(model).eval()


FORMS = ("eager", "channels_last", "compiled", "best")
PROBE = Plan(rounds=5, fewest=3, warmup=1, sample_seconds=0.0, budget_seconds=10.0)
"""How the ways to run the best form are compared with each other."""


def folded(model: Features) -> nn.Module:
    """A copy for inference: our own `fuse()` where there is one, else BatchNorm folded into convolutions.

    A plain copy where there is nothing to fold, or its code can't be traced.
    """
    own = getattr(model.model, "fuse", None)
    if callable(own) and type(model.model).__module__.startswith("dfmamba."):
        return Features(own()).eval()
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        from torch.fx.experimental.optimization import fuse
        from torch.fx.proxy import TraceError

        try:
            return fuse(model).eval()
        except TraceError:
            pass
    return copy.deepcopy(model)


def compiled(model: nn.Module, freeze: bool = False) -> Callable[[Tensor], Tensor]:
    """`torch.compile` for fixed shapes; with `freeze`, weights are constants (inference only)."""
    options: dict[str, Any] | None = {"freezing": True} if freeze else None
    return torch.compile(model, dynamic=False, options=options)


@dataclass(frozen=True)
class Variant:
    """A way to run a network.

    Attributes:
        how: what was done to it.
        call: picture in, features out.
        module: holder of the parameters that `call` uses.
        channels_last: memory order of the picture.
        compiles: whether `torch.compile` can take it.
    """

    how: str
    call: Callable[[Tensor], Tensor]
    module: nn.Module
    channels_last: bool = False
    compiles: bool = True

    def compiled(self, freeze: bool) -> Variant:
        """The same, compiled."""
        how = f"{self.how}, compiled" + (" with frozen weights" if freeze else "")
        return Variant(how, compiled(self.module, freeze), self.module, self.channels_last)


def variants(model: Features, form: str, train: bool) -> list[Variant]:
    """The ways to run a network that a form stands for; for "best", those that need no compiler.

    Raises:
        ValueError: unknown form.
    """
    if form == "eager":
        return [Variant("as built", model, model)]
    if form == "channels_last":
        return [_channels_last("channels-last", copy.deepcopy(model))]
    if form == "compiled":
        return [Variant("as built", model, model).compiled(freeze=False)]
    if form != "best":
        raise ValueError(f"unknown form {form!r}; known: {', '.join(FORMS)}")
    base = copy.deepcopy(model) if train else folded(model)
    how = "as built" if train else "folded"
    found = [Variant(how, base, base), _channels_last(f"{how}, channels-last", copy.deepcopy(base))]
    if not train and isinstance(model.model, Tribrid) and native.available():
        found.append(Variant("in C", InC(model.model), model, channels_last=True, compiles=False))
    return found


class InC:
    """Our network as calls of the C kernels: pictures of a batch side by side, or one for all threads."""

    def __init__(self, model: Tribrid) -> None:
        self.model = model
        self.made: dict[tuple[int, int, bool], NativeFeatures] = {}

    def __call__(self, x: Tensor) -> Tensor:
        height, width, alone = *x.shape[2:], len(x) == 1
        if (height, width, alone) not in self.made:
            threads = torch.get_num_threads()
            team = threads if alone else 1
            self.made[height, width, alone] = NativeFeatures(self.model, (height, width), threads, team)
        return self.made[height, width, alone](x)[-1]


def _channels_last(how: str, model: nn.Module) -> Variant:
    model = model.to(memory_format=torch.channels_last)
    return Variant(how, model, model, channels_last=True)


@dataclass(frozen=True)
class Ring:
    """Where the forms of one backbone compete on one picture with one right answer."""

    x: Tensor
    train: bool
    expected: Sequence[Tensor]
    ours: bool
    tolerance: float

    def entrant(self, name: str, variant: Variant, note: str = "") -> Entrant:
        """A competitor that runs the variant."""
        call = call_of(variant, self.x, self.train)
        return Entrant(name, call, self._error, self.ours, note or variant.how)

    def fastest(self, name: str, candidates: Sequence[Variant], compiler: bool) -> Entrant:
        """The fastest of the candidates, or of that one and its compiled twin."""
        best, _ = self._winner(candidates)
        note = best.how
        if compiler:
            source = best
            if not best.compiles:
                source, _ = self._winner([one for one in candidates if one.compiles])
            twin = source.compiled(freeze=not self.train)
            best, rows = self._winner([best, twin])
            problem = next((row for row in rows if row.name == twin.how and row.timing is None), None)
            note = best.how if problem is None else f"{best.how} (compiled: {problem.status}, {problem.note})"
        return self.entrant(name, best, note)

    def _winner(self, candidates: Sequence[Variant]) -> tuple[Variant, list[Row]]:
        trial = [self.entrant(variant.how, variant) for variant in candidates]
        rows = contest(trial, self.tolerance, PROBE, synchronize=waiter(self.x.device))
        timed = [(row.timing.median, i) for i, row in enumerate(rows) if row.timing is not None]
        return candidates[min(timed)[1] if timed else 0], rows

    def _error(self, result: Sequence[Tensor | None]) -> float:
        return relative_error(gathered(result), self.expected)


def call_of(variant: Variant, x: Tensor, train: bool) -> Callable[[], tuple[Tensor | None, ...]]:
    memory = torch.channels_last if variant.channels_last else torch.contiguous_format
    picture = x.contiguous(memory_format=memory)
    parameters = list(variant.module.parameters())
    variant.module.train(train)

    def forward() -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            return (variant.call(picture),)

    def both() -> tuple[Tensor | None, ...]:
        y = variant.call(picture)
        return (y, *torch.autograd.grad(y.square().mean(), parameters, allow_unused=True))

    return both if train else forward


def gathered(result: Sequence[Tensor | None]) -> list[Tensor]:
    """The features, and all gradients as one vector: single ones may be nothing but rounding."""
    features, *gradients = result
    assert features is not None
    flat = [g.detach().flatten() for g in gradients if g is not None]
    return [features.detach().clone(), *([torch.cat(flat)] if flat else [])]


@contextlib.contextmanager
def many_compilations(wanted: bool) -> Iterator[None]:
    """Lets all networks be compiled: beyond a limit per function, PyTorch silently stays eager."""
    if not wanted:
        yield
        return
    import torch._dynamo

    with torch._dynamo.config.patch(recompile_limit=1000, accumulated_recompile_limit=1000):
        yield
    torch._dynamo.reset()
