"""A registry killed at any durable step serves the old or the new version, and its chain holds."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from federation.adapter.format import initial_arrays
from federation.adapter.signing import SigningKey
from server.registry import Registry
from tests.adapter_samples import make_spec, random_arrays

SPEC = make_spec(layers=1)
# What a publication does to the disk, as the interpreter reports it to audit hooks.
STEPS = ("os.rename", "os.mkdir", "os.chmod", "open")


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey.generate()


def prepared(folder: Path, key: SigningKey) -> Path:
    folder.mkdir()
    key.save(folder / "key")
    registry = Registry(folder / "registry", key, key.public_hex)
    registry.publish(initial_arrays(SPEC, 0), strategy="initial", spec=SPEC)
    return folder


def publish_until(folder: Path, limit: int) -> bool:
    """Publish version 1 in a child that dies before its step `limit`; whether it finished."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside library threads
        pid = os.fork()
    if pid == 0:
        try:
            publish_and_die(folder, limit)
        except BaseException:  # noqa: BLE001 (the child must never run pytest's own exit)
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status == 0


def publish_and_die(folder: Path, limit: int) -> None:
    """Publish version 1; SIGKILL ourselves just before the step of that number."""
    left = [limit]

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event in STEPS and str(folder / "registry") in str(arguments):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    key = SigningKey.load(folder / "key")
    registry = Registry(folder / "registry", key, key.public_hex)
    sys.addaudithook(watch)
    registry.publish(random_arrays(SPEC, 7), strategy="fedit")


@pytest.mark.security
@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX only")
def test_h22_killed_before_any_step_the_old_or_the_new_version_stands(
    tmp_path: Path, key: SigningKey
) -> None:
    seen = set()
    for limit in range(1, 200):
        folder = prepared(tmp_path / str(limit), key)
        finished = publish_until(folder, limit)
        reader = Registry(folder / "registry", None, key.public_hex)
        seen.add(reader.current)
        reader.verify()
        assert reader.current in (0, 1)
        again = Registry(folder / "registry", key, key.public_hex)
        again.verify()
        assert again.current == again.versions()[-1]
        assert not list((folder / "registry").glob(".partial-*"))
        if finished:
            assert limit > 10, "the child met hardly any step: the hook is not watching"
            assert reader.current == 1
            break
        follow = again.publish(random_arrays(SPEC, 9), strategy="fedit")
        assert follow.version == again.current == again.versions()[-1]
        again.verify()
    else:
        pytest.fail("a publication takes more steps than expected")
    assert seen == {0, 1}


@pytest.mark.parametrize("name", ["_write", "_point_to"])
def test_an_error_in_a_step_leaves_a_registry_that_publishes(
    tmp_path: Path, key: SigningKey, name: str
) -> None:
    folder = prepared(tmp_path / "one", key)
    registry = Broken(folder / "registry", key, key.public_hex, fails_in=name)
    with pytest.raises(OSError, match="no space"):
        registry.publish(random_arrays(SPEC, 1), strategy="fedit")
    healthy = Registry(folder / "registry", key, key.public_hex)
    manifest = healthy.publish(random_arrays(SPEC, 2), strategy="fedit")
    healthy.verify()
    assert healthy.current == manifest.version
    held = healthy.arrays(manifest.version)
    assert all(np.array_equal(held[n], a) for n, a in random_arrays(SPEC, 2).items())


class Broken(Registry):
    """A registry on a disk that fills up in one step."""

    def __init__(self, folder: Path, key: SigningKey, public_key: str, *, fails_in: str) -> None:
        super().__init__(folder, key, public_key)
        setattr(self, fails_in, self._fail)

    def _fail(self, *_arguments: object) -> Callable[..., None]:
        raise OSError(28, "no space left on device")
