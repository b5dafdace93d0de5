"""A model's weights, damaged in ways that happen (or resemble what happens), for ``benchmarks/smoke.py``.

Needs torch and safetensors, so it runs in vLLM's environment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Tensors = dict[str, torch.Tensor]
Change = Callable[[Tensors, torch.Generator], Tensors]


@dataclass(frozen=True)
class Variant:
    """One way to change the weights."""

    name: str
    change: Change
    works: bool
    """Whether the model still does its job: then the smoke test has to pass."""


def _layer(index: int) -> str:
    return f"model.layers.{index}."


def _where(matches: Callable[[str], bool], change: Callable[[torch.Tensor, torch.Generator], torch.Tensor]) -> Change:
    """Changes the tensors whose name matches."""
    return lambda tensors, random: {
        name: change(tensor, random).to(tensor.dtype).contiguous() if matches(name) else tensor
        for name, tensor in tensors.items()
    }


def _matrix(name: str) -> bool:
    return name.endswith("proj.weight")


def _rounded(bits: int) -> Change:
    """To so many bits with one scale for each 32 values, as quantized files are."""

    def change(tensor: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        blocks = tensor.float().reshape(-1, 32)
        scale = blocks.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        return (torch.round(blocks / scale.clamp(min=1e-12)) * scale).reshape(tensor.shape)

    return _where(_matrix, change)


def _noisy(share: float) -> Change:
    """With noise of so much of each tensor's own spread."""

    def change(tensor: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        noise = torch.randn(tensor.shape, generator=random)
        return tensor.float() + share * tensor.float().std() * noise

    return _where(_matrix, change)


def _zeroed(tensor: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    return torch.zeros_like(tensor)


def _shuffled(tensor: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    return tensor.flatten()[torch.randperm(tensor.numel(), generator=random)].reshape(tensor.shape)


def _half_shuffled(tensor: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    flat = tensor.flatten().clone()
    chosen = torch.randperm(flat.numel(), generator=random)[: flat.numel() // 2]
    flat[chosen] = flat[chosen[torch.randperm(chosen.numel(), generator=random)]]
    return flat.reshape(tensor.shape)


def _scaled(factor: float) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    return lambda tensor, random: tensor.float() * factor


def _initialised(tensor: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    return torch.ones_like(tensor) if tensor.dim() == 1 else 0.02 * torch.randn(tensor.shape, generator=random)


def _random_bytes(tensor: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    bits = torch.randint(-(2**15), 2**15, tensor.shape, generator=random, dtype=torch.int16)
    return bits.view(torch.bfloat16).to(tensor.dtype)


def _flipped(share: float) -> Callable[[torch.Tensor, torch.Generator], torch.Tensor]:
    """One bit of this share of the values, as memory that forgets."""

    def change(tensor: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        values = tensor.to(torch.bfloat16).flatten().view(torch.int16).clone()
        chosen = torch.randint(0, values.numel(), (max(1, int(share * values.numel())),), generator=random)
        places = torch.randint(0, 15, chosen.shape, generator=random, dtype=torch.int16)
        values[chosen] ^= torch.ones_like(places) << places
        return values.view(torch.bfloat16).reshape(tensor.shape)

    return change


def _swapped_bytes(tensor: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    pairs = tensor.to(torch.bfloat16).flatten().view(torch.uint8).reshape(-1, 2)
    return pairs.flip(1).contiguous().flatten().view(torch.bfloat16).reshape(tensor.shape)


def _with_one_nan(tensor: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[changed.numel() // 2] = float("nan")
    return changed


def _layers_moved(tensors: Tensors, random: torch.Generator) -> Tensors:
    """Each layer has its neighbour's weights."""
    count = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("model.layers."))
    return {
        name: tensors[
            ".".join((*(parts := name.split("."))[:2], str((int(parts[2]) + 1) % count), *parts[3:]))
            if name.startswith("model.layers.")
            else name
        ].clone()
        for name in tensors
    }


def _second_half_zero(tensors: Tensors, random: torch.Generator) -> Tensors:
    """As after a download that stopped halfway into a file of full size."""
    names = sorted(tensors)
    return {
        name: torch.zeros_like(tensors[name]) if name in names[len(names) // 2 :] else tensors[name] for name in names
    }


def _in_layers(*indices: int) -> Callable[[str], bool]:
    return lambda name: name.startswith(tuple(map(_layer, indices)))


def _everywhere(name: str) -> bool:
    return True


VARIANTS = (
    Variant("as it is", _where(_everywhere, lambda tensor, random: tensor), works=True),
    Variant("rounded to 8 bits", _rounded(8), works=True),
    Variant("rounded to 4 bits", _rounded(4), works=True),
    Variant("noise of 10 %", _noisy(0.1), works=True),
    Variant("one layer of 30 left out", _where(_in_layers(15), _zeroed), works=True),
    Variant("one layer of 30 with small random numbers", _where(_in_layers(15), _initialised), works=True),
    Variant("rounded to 3 bits", _rounded(3), works=False),
    Variant("noise of 20 %", _noisy(0.2), works=False),
    Variant("noise of 50 %", _noisy(0.5), works=False),
    Variant("four layers left out", _where(_in_layers(5, 11, 17, 23), _zeroed), works=False),
    Variant("first layer zero", _where(_in_layers(0), _zeroed), works=False),
    Variant("last layer zero", _where(_in_layers(29), _zeroed), works=False),
    Variant("layer 3 shuffled", _where(_in_layers(3), _shuffled), works=False),
    Variant("layer 15 shuffled", _where(_in_layers(15), _shuffled), works=False),
    Variant("layer 26 shuffled", _where(_in_layers(26), _shuffled), works=False),
    Variant("one layer times 100", _where(_in_layers(15), _scaled(100)), works=False),
    Variant("each layer with its neighbour's weights", _layers_moved, works=False),
    Variant("embeddings shuffled", _where(lambda name: "embed" in name, _shuffled), works=False),
    Variant("half of the values of each tensor permuted", _where(_everywhere, _half_shuffled), works=False),
    Variant("all values of each tensor permuted", _where(_everywhere, _shuffled), works=False),
    Variant("second half of the file zero", _second_half_zero, works=False),
    Variant("all zero", _where(_everywhere, _zeroed), works=False),
    Variant("fresh random numbers, as before training", _where(_everywhere, _initialised), works=False),
    Variant("one bit in 10,000 values flipped", _where(_everywhere, _flipped(1e-4)), works=False),
    Variant("bytes in the wrong order", _where(_everywhere, _swapped_bytes), works=False),
    Variant("other memory (random bytes)", _where(_everywhere, _random_bytes), works=False),
    Variant("one NaN", _where(lambda name: name == _layer(15) + "mlp.down_proj.weight", _with_one_nan), works=False),
)
"""Whether one works is by what it says: see the answers in ``docs/benchmarks/smoke.json``."""


HELD_OUT = tuple(
    variant
    for variant in VARIANTS
    if any(word in variant.name for word in ("noise", "random", "shuffled", "permuted", "flipped"))
)
"""Those that go by random numbers: with others they are cases that the limits were not made from."""


def changed(tensors: Mapping[str, torch.Tensor], variant: Variant, seed: int = 0) -> Tensors:
    """The same each time."""
    return variant.change(dict(tensors), torch.Generator().manual_seed(seed))
