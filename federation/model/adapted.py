"""LoRA on a base model: what it looks like, attach it, read it back. The peft door."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from federation.adapter.base_delta import base_spec
from federation.adapter.format import PREFIX, A, AdapterSpec, Arrays, B, require_shapes
from federation.errors import AdapterError, FormatError, ModelError
from federation.language import _
from federation.model.choose import public_name
from federation.model.load import Loaded, without_bitsandbytes

with without_bitsandbytes():
    import peft
    from peft.import_utils import is_bnb_4bit_available, is_bnb_available
    from peft.tuners.tuners_utils import BaseTunerLayer

ALL_LINEAR = "all-linear"
ONLY = "default"  # PEFT's name for the adapter of `attach`
_BASE = "-base"  # ends the name of the second adapter that an adapter's base delta is


def spec_of(
    loaded: Loaded,
    *,
    rank: int,
    alpha: float,
    targets: str | Sequence[str] = ALL_LINEAR,
    rslora: bool = False,
) -> AdapterSpec:
    """Describe the adapter of `rank` on the `targets` of a model.

    Args:
        loaded: not modified.
        rank: ≥ 1.
        alpha: LoRA's alpha, in weight units.
        targets: module name suffixes, or "all-linear": every linear layer but the output head.
        rslora: scale by alpha / sqrt(rank) rather than alpha / rank.

    Raises:
        ModelError: a target names no linear layer.
    """
    layers = linear_layers(loaded.model)
    suffixes = _all_suffixes(layers) if targets == ALL_LINEAR else tuple(sorted(set(targets)))
    chosen = {name: sizes for name, sizes in layers.items() if _matches(name, suffixes)}
    for suffix in suffixes:
        if not any(_matches(name, (suffix,)) for name in layers):
            known = ", ".join(_all_suffixes(layers))
            raise ModelError(
                _("{model} has no linear layer called {name}").format(
                    model=loaded.choice.ref, name=suffix
                ),
                hint=_("Known names: {names}").format(names=known),
            )
    shapes: dict[str, tuple[int, int]] = {}
    for name, (outputs, inputs) in chosen.items():
        shapes[PREFIX + name + A] = (rank, inputs)
        shapes[PREFIX + name + B] = (outputs, rank)
    return AdapterSpec(
        base_hash=loaded.choice.identity,
        base_ref=public_name(loaded.choice),
        rank=rank,
        alpha=alpha,
        rslora=rslora,
        targets=suffixes,
        shapes=dict(sorted(shapes.items())),
    )


def linear_layers(model: Any) -> dict[str, tuple[int, int]]:  # noqa: ANN401 - a library's model
    """Module path -> (outputs, inputs) of every linear layer except the output head.

    A layer that carries an adapter now is listed under its own path.
    """
    head = model.get_output_embeddings()
    adapted = {name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    found = {}
    for name, module in model.named_modules():
        path = name.removesuffix(".base_layer")
        if module is head or (path == name and _inside(name, adapted)):
            continue
        if isinstance(module, torch.nn.Linear):
            found[path] = (module.out_features, module.in_features)
        elif isinstance(module, Conv1D):
            inputs, outputs = module.weight.shape
            found[path] = (int(outputs), int(inputs))
    return found


def attach(
    loaded: Loaded,
    spec: AdapterSpec,
    arrays: Arrays,
    *,
    dropout: float = 0.0,
    trainable: bool,
    base: Arrays | None = None,
) -> Any:  # noqa: ANN401 - a PeftModel
    """Put an adapter on the base model; one attached before is taken off first.

    Args:
        loaded: its `model` is modified in place (layers wrapped, weights untouched) until
            `detach`.
        spec: what the adapter must look like.
        arrays: copied, f32, exactly the names and shapes of `spec`.
        dropout: on the adapter's input, in training mode only.
        trainable: whether the adapter's weights get gradients; the base's never do.
        base: what is added to the base model, as a second adapter that never trains; may be empty.

    Raises:
        ModelError: `spec` does not fit this model.
        FormatError: `arrays` are not those of `spec`.
    """
    require_schema(arrays, spec)
    detach(loaded)
    _require_fit(loaded, spec)
    _put(loaded, ONLY, _config(loaded, spec, dropout=dropout, trainable=trainable))
    _overwrite(_parameters(loaded.adapted, spec), arrays)
    _put_base(loaded, ONLY, spec, base)
    loaded.adapted.base_model.set_adapter(_together(loaded, ONLY))
    for parameter in loaded.adapted.parameters():
        parameter.requires_grad_(False)
    for parameter in _parameters(loaded.adapted, spec).values():
        parameter.requires_grad_(trainable)
    return loaded.adapted


def add(
    loaded: Loaded, name: str, spec: AdapterSpec, arrays: Arrays, base: Arrays | None = None
) -> None:
    """Set a further adapter beside those that are there; which one computes does not change.

    Not while another thread computes with the model.

    Args:
        loaded: its `model` is modified in place until the last adapter is removed.
        name: a new one, without a dot.
        spec: what the adapter must look like.
        arrays: copied, f32, exactly the names and shapes of `spec`.
        base: what is added to the base model where this adapter computes; may be empty.

    Raises:
        ModelError: `spec` does not fit this model.
        FormatError: `arrays` are not those of `spec`.
    """
    require_schema(arrays, spec)
    _require_fit(loaded, spec)
    _put(loaded, name, _config(loaded, spec))
    _overwrite(_parameters(loaded.adapted, spec, name), arrays)
    _put_base(loaded, name, spec, base)


def use(loaded: Loaded, name: str) -> None:
    """Compute with the adapter `name` from now on; "" is the base model alone.

    Not while another thread computes with the model.
    """
    if loaded.adapted is None:
        return
    tuner = loaded.adapted.base_model
    if not name:
        tuner.disable_adapter_layers()
        return
    tuner.enable_adapter_layers()
    tuner.set_adapter(_together(loaded, name), inference_mode=True)


def remove(loaded: Loaded, name: str) -> None:
    """Take one adapter off; `use` must follow. Not while another thread computes with the model."""
    gone = _together(loaded, name)
    if set(loaded.adapted.peft_config) == set(gone):
        detach(loaded)
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Adapter .* was active which is now deleted")
        for each in gone:
            loaded.adapted.delete_adapter(each)


def _together(loaded: Loaded, name: str) -> list[str]:
    """The adapter, and what stands for its base delta if it has one."""
    return [each for each in (name, name + _BASE) if each in loaded.adapted.peft_config]


def _config(
    loaded: Loaded, spec: AdapterSpec, *, dropout: float = 0.0, trainable: bool = False
) -> Any:  # noqa: ANN401 - peft has no types
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.rank,
        lora_alpha=spec.alpha,  # PEFT only divides by it; fractions are as good as integers
        lora_dropout=dropout,
        use_rslora=spec.rslora,
        target_modules=[name.removeprefix(PREFIX) for name in spec.modules()],
        fan_in_fan_out=_has_conv1d(loaded.model, spec),
        init_lora_weights=False,
        inference_mode=not trainable,
    )


def _put(loaded: Loaded, name: str, config: Any) -> None:  # noqa: ANN401
    """Wrap the layers; the weights that PEFT draws are to be overwritten."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        # PEFT draws weights that are overwritten below: nobody else's numbers change by it.
        # PEFT 0.21 still asks transformers for a property by its old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        with _only_needed_backends(loaded):
            if loaded.adapted is None:
                loaded.adapted = peft.get_peft_model(loaded.model, config, adapter_name=name)
            else:
                loaded.adapted.add_adapter(name, config)
    loaded.adapted.eval()


def _put_base(loaded: Loaded, name: str, spec: AdapterSpec, base: Arrays | None) -> None:
    if not base:
        return
    its = base_spec(spec, base)
    _put(loaded, name + _BASE, _config(loaded, its))
    _overwrite(_parameters(loaded.adapted, its, name + _BASE), base)


def detach(loaded: Loaded) -> None:
    """Give the base model its own layers back; the PeftModel attached before is dead."""
    if loaded.adapted is not None:
        loaded.model = loaded.adapted.unload()
        loaded.adapted = None


def copies(parameters: Mapping[str, torch.nn.Parameter]) -> Arrays:
    """Copies of parameters as `adapter_parameters` gives them, f32."""
    return {name: _to_array(parameter) for name, parameter in parameters.items()}


def replace(model: Any, spec: AdapterSpec, arrays: Arrays) -> None:  # noqa: ANN401
    """Overwrite the attached adapter's weights in place, bit for bit.

    Raises:
        FormatError: `arrays` are not those of `spec`.
    """
    write(_parameters(model, spec), spec, arrays)


def write(parameters: Mapping[str, torch.nn.Parameter], spec: AdapterSpec, arrays: Arrays) -> None:
    """As `replace`, where the parameters have been found already.

    Raises:
        FormatError: `arrays` are not those of `spec`.
    """
    require_schema(arrays, spec)
    _overwrite(parameters, arrays)


def adapter_parameters(model: Any, spec: AdapterSpec) -> dict[str, torch.nn.Parameter]:  # noqa: ANN401
    """The live parameters of the attached adapter, by name, in the order of `spec`."""
    found = _parameters(model, spec)
    return {name: found[name] for name in spec.shapes}


def require_schema(arrays: Arrays, spec: AdapterSpec) -> None:
    """Refuse anything that is not exactly the adapter `spec` describes.

    Raises:
        FormatError: missing or extra names, wrong shape or dtype, numbers that are not finite.
    """
    require_shapes(arrays, spec)
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise FormatError(_("{name} holds numbers that are not finite").format(name=name))


@contextmanager
def _only_needed_backends(loaded: Loaded) -> Iterator[None]:
    """Let PEFT look for bitsandbytes (and keep its finding) only if the base is quantised."""
    if loaded.quantization != "none":
        _forget_backends()
        yield
        return
    with without_bitsandbytes():
        _forget_backends()
        yield
    _forget_backends()


def _forget_backends() -> None:
    for finding in (is_bnb_available, is_bnb_4bit_available):
        finding.cache_clear()


def _require_fit(loaded: Loaded, spec: AdapterSpec) -> None:
    layers = linear_layers(loaded.model)
    for module in spec.modules():
        sizes = layers.get(module.removeprefix(PREFIX))
        expected = (spec.shapes[module + B][0], spec.shapes[module + A][1])
        if sizes != expected:
            raise ModelError(
                _("the adapter does not fit {model}: {name} is {found}, not {wanted}").format(
                    model=loaded.choice.ref, name=module, found=sizes, wanted=expected
                ),
                hint=_("The adapter was made for another base model."),
            )


def _overwrite(parameters: Mapping[str, torch.nn.Parameter], arrays: Arrays) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(arrays[name])))


def _parameters(
    model: Any,  # noqa: ANN401
    spec: AdapterSpec,
    name: str = ONLY,
) -> dict[str, torch.nn.Parameter]:
    end = f".{name}.weight"
    found = {
        key.removesuffix(end) + ".weight": parameter
        for key, parameter in model.named_parameters()
        if ".lora_" in key and key.endswith(end)
    }
    if set(found) != set(spec.shapes):
        odd = sorted(set(found) ^ set(spec.shapes))
        raise AdapterError(_("the attached adapter differs at {name}").format(name=odd[0]))
    return found


def _to_array(parameter: torch.nn.Parameter) -> np.ndarray[Any, np.dtype[np.float32]]:
    return parameter.detach().to("cpu", torch.float32).numpy().copy()


def _has_conv1d(model: Any, spec: AdapterSpec) -> bool:  # noqa: ANN401
    first = model.get_submodule(spec.modules()[0].removeprefix(PREFIX))
    return isinstance(getattr(first, "base_layer", first), Conv1D)  # wrapped, if one is on


def _inside(name: str, adapted: set[str]) -> bool:
    return any(name.startswith(path + ".") for path in adapted)


def _all_suffixes(layers: dict[str, tuple[int, int]]) -> tuple[str, ...]:
    return tuple(sorted({name.rpartition(".")[2] for name in layers}))


def _matches(name: str, suffixes: tuple[str, ...]) -> bool:
    return any(name == suffix or name.endswith("." + suffix) for suffix in suffixes)
