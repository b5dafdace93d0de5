"""What the files of a model of the catalogue tell, as far as they are on this machine. Blocking: some milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from server_manager.memory_plan.shape import ModelShape, find_shape
from server_manager.memory_plan.sizes import tensor_parallel_choices
from server_manager.model_spec import ModelSpec


def files_shape(
    model: str,
    options: Mapping[str, object],
    env: Mapping[str, str],
    hub_size: Callable[[str], int | None] | None = None,
) -> ModelShape:
    """The shape of the files that vLLM will serve with these flags; see ``find_shape``."""
    revision, folder = options.get("revision"), options.get("download-dir")
    return find_shape(
        model,
        revision=None if revision is None else str(revision),
        download_dir=None if folder is None else str(folder),
        env=env,
        hub_size=hub_size,
    )


def spec_shape(spec: ModelSpec) -> ModelShape:
    """The shape of the model's files, with all unknown where they are not here."""
    return files_shape(spec.model, spec.options, spec.vllm_env)


def split_choices(spec: ModelSpec, device_count: int) -> tuple[int, ...]:
    """Over how many of this machine's GPUs vLLM can split the model; empty where nobody can tell."""
    shape = spec_shape(spec)
    return tensor_parallel_choices(shape, device_count) if shape.num_attention_heads else ()
