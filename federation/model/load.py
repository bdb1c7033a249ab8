"""A base model and its tokenizer in memory, quantised if asked. The torch, transformers door."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from federation.errors import ModelError
from federation.language import _
from federation.model.choose import BaseChoice, Candidate, choose_base, folder_of

Quantization = Literal["none", "int8", "nf4"]

# What from_pretrained raises for a broken folder, as seen with truncated, wrong and foreign files.
LOAD_FAULTS = (
    OSError,
    ValueError,
    LookupError,
    RuntimeError,
    TypeError,
    AttributeError,
    ImportError,
    SafetensorError,
)
PROBE_TOKENS = 4


@dataclass
class Loaded:
    """A base model ready for use, in eval mode, its weights frozen.

    Attributes:
        model: the transformers model.
        tokenizer: its tokenizer; EOS is always set.
        device: "cpu", "cuda:0", …
        adapted: the PeftModel attached now, see `federation.model.adapted`; None if none.
    """

    model: Any
    tokenizer: Any
    choice: BaseChoice
    device: str
    quantization: Quantization = "none"
    adapted: Any = None


def open_base(
    model: str,
    *,
    search: Path,
    revision: str | None = None,
    quantization: Quantization = "none",
    device: str = "auto",
    allow_download: bool = False,
) -> Loaded:
    """Choose a base model (see `choose.candidates`) and keep it loaded.

    Raises:
        ModelError: none of the candidates loads.
    """
    kept: list[Loaded] = []

    def try_load(candidate: Candidate) -> None:
        trial = BaseChoice(candidate.ref, folder_of(candidate), candidate.revision, "")
        kept[:] = [load_base(trial, quantization=quantization, device=device)]

    choice = choose_base(
        model,
        revision=revision,
        search=search,
        try_load=try_load,
        allow_download=allow_download,
    )
    kept[0].choice = choice
    return kept[0]


def load_base(
    choice: BaseChoice,
    *,
    quantization: Quantization = "none",
    device: str = "auto",
    dtype: str = "auto",
) -> Loaded:
    """Load weights and tokenizer from the chosen folder, touching no network.

    Args:
        choice: whose `path` is read.
        quantization: "int8" or "nf4" keep the linear layers small through bitsandbytes.
        device: "auto" takes the first CUDA device, else the CPU.
        dtype: "auto" is bfloat16 on CUDA and float32 on the CPU; or a torch dtype's name.

    Raises:
        ModelError: the folder does not hold a complete causal language model in safetensors.
    """
    target = pick_device(device)
    options: dict[str, Any] = {
        "dtype": _dtype(dtype, target),
        "local_files_only": True,
        "trust_remote_code": False,
    }
    weights: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True}
    if quantization != "none":
        weights["quantization_config"] = _quantization(quantization, options["dtype"])
        weights["device_map"] = {"": target}
    try:
        with quiet_transformers():
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                choice.path, local_files_only=True, trust_remote_code=False
            )
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                choice.path, **options, **weights
            )
    except LOAD_FAULTS as err:
        why = str(err).strip().partition("\n")[0] or type(err).__name__
        raise ModelError(_("it does not load: {why}").format(why=why)) from err
    _require_complete(model, tokenizer, info)
    if quantization == "none":
        model = model.to(target)
    else:
        _keep_as_quantised(model)
    model.requires_grad_(requires_grad=False)
    model.eval()
    loaded = Loaded(model, tokenizer, choice, str(target), quantization)
    _probe(loaded)
    return loaded


def pick_device(device: str = "auto") -> torch.device:
    """The device meant by `device`.

    Raises:
        ModelError: a CUDA device was asked for and there is none.
    """
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(
            _("there is no CUDA device on this machine"), hint=_("Set `device` to auto or cpu.")
        )
    return torch.device(device)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and load reports off stderr inside the block."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """Hide bitsandbytes from what is imported inside the block, unless it is loaded already.

    Importing it costs as much as half of torch (it decorates with `torch.compile`, which loads
    the whole compiler), and peft imports it wherever it is installed, quantised or not.
    """
    if "bitsandbytes" in sys.modules:
        yield
        return
    with _hidden("bitsandbytes"):
        yield


@contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Let `module` be missing for what is imported inside the block."""
    kept: dict[str, Any] = {module: sys.modules[module]} if module in sys.modules else {}
    hidden: dict[str, Any] = {module: None}  # Python's own sign for "there is no such"
    sys.modules.update(hidden)
    try:
        yield
    finally:
        del sys.modules[module]
        sys.modules.update(kept)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ModelError(_("'{name}' is not a torch dtype").format(name=name))
    return dtype


def _quantization(kind: Quantization, dtype: torch.dtype) -> Any:  # noqa: ANN401 - a library's class
    # It says for each layer and each call that int8 rounds its inputs through float16, and on
    # processors with AVX512-BF16 that it wants `kernels`, to fetch code from a model hub: never.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with _hidden("kernels"), suppress(ImportError):  # transformers says what is missing
        import_module("bitsandbytes")
    if kind == "int8":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _keep_as_quantised(model: Any) -> None:  # noqa: ANN401 - of transformers
    """Keep 4-bit layers from being packed anew on processors with AVX512-BF16.

    Their first forward pass without gradients would do it for good: in bf16, without a way back
    for gradients when training goes on, and not at all for widths that 64 does not divide.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def _require_complete(model: Any, tokenizer: Any, info: dict[str, Any]) -> None:  # noqa: ANN401
    """Refuse what transformers would only log: weights made up at random, ids out of range."""
    missing = sorted(info.get("missing_keys", ()))
    if missing:
        text = _("weights are missing: {files}")
        raise ModelError(text.format(files=", ".join(missing[:3])))
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        text = _("the tokenizer has {tokens} tokens but the model only {rows}")
        raise ModelError(text.format(tokens=len(tokenizer), rows=rows))
    if tokenizer.eos_token_id is None:
        raise ModelError(_("the tokenizer has no end-of-text token"))


def _probe(loaded: Loaded) -> None:
    """One tiny forward pass: a model that cannot compute here did not load."""
    ids = torch.full((1, PROBE_TOKENS), loaded.tokenizer.eos_token_id, device=loaded.device)
    try:
        with torch.inference_mode():
            logits = loaded.model(input_ids=ids, use_cache=False).logits
    except LOAD_FAULTS as err:
        why = str(err).strip().partition("\n")[0] or type(err).__name__
        raise ModelError(
            _("it does not run on {device}: {why}").format(device=loaded.device, why=why)
        ) from err
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(_("its outputs are not finite numbers"))
