"""What leaves a node: every byte accounted for, small enough, and nothing private in it."""

from __future__ import annotations

import getpass
import json
import os
import socket
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import packaging
from client.packaging import PackageFacts, explain, load_feedback, make_package, verify
from federation.adapter.delta import add, decode, subtract
from federation.adapter.format import initial_arrays
from federation.adapter.package import open_package
from federation.adapter.signing import SigningKey
from federation.adapter.tensors import save_tensors
from federation.errors import FormatError, SignatureError
from tests.adapter_samples import FACTS, make_sample, make_spec, random_arrays


def llama_linears(hidden: int, inner: int, values: int) -> dict[str, tuple[int, int]]:
    return {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (hidden, values),
        "self_attn.v_proj": (hidden, values),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (hidden, inner),
        "mlp.up_proj": (hidden, inner),
        "mlp.down_proj": (inner, hidden),
    }


@pytest.mark.parametrize("coding", ["bf16", "int8"])
@pytest.mark.parametrize(
    ("layers", "linears"),
    [(6, llama_linears(256, 704, 128)), (24, llama_linears(896, 4864, 128))],
    ids=["semilla", "half a billion parameters"],
)
def test_package_is_hardly_larger_than_its_tensors(
    coding: Any, layers: int, linears: dict[str, tuple[int, int]]
) -> None:
    spec = make_spec(layers=layers, rank=8, linears=linears)

    data = make_sample(spec, SigningKey.generate(), coding=coding)

    tensor_bytes = spec.tensor_bytes // {"bf16": 2, "int8": 4}[coding]
    assert len(data) <= 1.05 * tensor_bytes + 16 * 2**10


@pytest.mark.parametrize("coding", ["bf16", "int8"])
def test_package_holds_what_training_changed(coding: Any) -> None:
    spec = make_spec()
    start, change = initial_arrays(spec, 0), random_arrays(spec, 1)
    trained = add(start, change)
    facts = PackageFacts(0, "0" * 64, 12, 100, 5, 2.0, 1.5, coding)

    data, lost = make_package(trained, start, spec, facts, SigningKey.generate())

    got = decode(open_package(data, max_bytes=10**6).tensors, coding)
    for name, value in subtract(trained, start).items():
        np.testing.assert_array_equal(lost[name], value - got[name])
        assert np.abs(lost[name]).max() < 0.01 * np.abs(value).max()


def test_two_packages_of_the_same_training_differ() -> None:
    key = SigningKey.generate()

    assert make_sample(make_spec(), key) != make_sample(make_spec(), key)


def test_training_that_diverged_is_not_packed() -> None:
    spec = make_spec()
    start = initial_arrays(spec, 0)
    trained = {name: np.full_like(value, np.nan) for name, value in start.items()}

    with pytest.raises(FormatError, match="not finite"):
        make_package(trained, start, spec, FACTS, SigningKey.generate())


@pytest.mark.parametrize("coding", ["bf16", "int8"])
def test_explain_accounts_for_every_byte(coding: Any, tmp_path: Path) -> None:
    path = tmp_path / "package.zip"
    path.write_bytes(make_sample(make_spec(), SigningKey.generate(), coding=coding))

    parts = explain(path)

    assert sum(part.size_bytes for part in parts) == path.stat().st_size
    assert all(part.size_bytes > 0 and part.what for part in parts)
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            inside = [
                p.size_bytes for p in parts if (p.member, p.field != "zip") == (info.filename, True)
            ]
            assert sum(inside) == info.file_size
    fields = {part.field for part in parts if part.member == "manifest.json"}
    manifest = open_package(path, max_bytes=10**6).manifest
    told = set(type(manifest).model_fields) - set(type(manifest).usual)
    assert fields == told | {"zip", "{,}"}


def test_every_manifest_field_has_a_meaning_of_its_own_or_is_shared() -> None:
    key = SigningKey.generate()
    shared = {p.field for p in explain(make_sample(make_spec(), key)) if "agreed by all" in p.what}

    assert shared == {
        "alpha",
        "base_hash",
        "coding",
        "config_sha256",
        "format",
        "kind",
        "rslora",
        "spec_hash",
        "targets",
    }


def test_verify_says_what_was_found() -> None:
    key = SigningKey.generate()

    lines = verify(make_sample(make_spec(), key), make_spec(), key.public_hex)

    assert lines[0].startswith("signature ok")
    assert lines[1].startswith("sha256 ok")
    assert lines[2] == "rank 4, alpha 16, bf16"
    assert lines[3] == "6 modules in 2 layers"
    assert lines[4].startswith("norm of the change 0.")


def test_verify_refuses_other_signers_and_other_specs() -> None:
    key = SigningKey.generate()
    data = make_sample(make_spec(), key)

    with pytest.raises(SignatureError, match="identity"):
        verify(data, make_spec(), SigningKey.generate().public_hex)
    with pytest.raises(FormatError, match="alpha"):
        verify(data, make_spec(alpha=8), key.public_hex)


def test_feedback_is_read_back_only_for_the_same_tensors(tmp_path: Path) -> None:
    spec = make_spec()
    residual = random_arrays(spec, 4)
    path = tmp_path / "x.feedback"
    path.write_bytes(save_tensors(residual))

    read = load_feedback(path, spec)

    assert read is not None
    assert all((read[name] == residual[name]).all() for name in spec.shapes)
    assert load_feedback(path, make_spec(layers=1)) is None
    assert load_feedback(tmp_path / "missing", spec) is None
    assert load_feedback(None, spec) is None
    path.write_bytes(b"damaged")
    assert load_feedback(path, spec) is None


@pytest.mark.security
@pytest.mark.privacy
def test_h19_nothing_of_the_machine_or_its_owner_is_in_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canaries = {
        place: f"CANARY-{place}-7f3a" for place in ("path", "env", "config", "corpus", "file")
    }
    home = tmp_path / canaries["path"] / canaries["file"]
    home.mkdir(parents=True)
    (home / "node_config.json").write_text(json.dumps({"name": canaries["config"]}))
    (home / "corpus.jsonl").write_text(json.dumps({"text": canaries["corpus"]}))
    for name in ("HOME", "USER", "HOSTNAME", "CONSCIENCE_HOME", "PWD"):
        monkeypatch.setenv(name, canaries["env"])
    monkeypatch.chdir(home)
    key = SigningKey.generate()
    key.save(home / "key")

    package = make_sample(make_spec(), key)

    private = [*canaries.values(), str(tmp_path), socket.gethostname(), os.sep + "home" + os.sep]
    private += [getpass.getuser()] if len(getpass.getuser()) > 4 else []
    private += (home / "key").read_text().splitlines()[1:2]
    for text in private:
        assert text.encode() not in package
    assert packaging.explain(package)
