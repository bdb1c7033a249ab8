"""Every error a person can meet, with its exit code and what to do next.

ConscienceError                 1  a step, check or gate failed
├── UsageError                  2  wrong use or configuration
│   ├── ConfigError             2  a settings file or value is wrong
│   └── PermissionsError        2  a private file is open to other users
├── AdapterError               10  an adapter, package or manifest is not what it claims
│   ├── FormatError            10  cannot be read: wrong container, header, version
│   ├── SignatureError         11  signature, chain or pinned key does not match
│   └── DowngradeError         12  older than what is already held
├── ModelError                 20  no base model could be loaded
│   └── BaseMismatchError      21  the base model is not the federation's
├── TrainingError              30  training could not start or finish
│   └── NoDataError            31  nothing to train on
├── NetworkError               40  the server could not be reached or refused
│   ├── InvitationError        41  used, expired, forged or malformed invitation
│   ├── RevokedError           42  this node's key is not (or no longer) admitted
│   ├── ClockError             43  the clocks differ too much
│   └── TorError               44  the way through Tor is closed: no tor, no circuit, no onion
├── BundleError                50  the code sent by the server is not the installed code
├── RoomError                  51  another distribution owns one of our package names
├── ProcessError               60  a child process could not be started or kept alive
└── RoundError                 70  a round could not be opened or finished
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class ConscienceError(Exception):
    """What happened to which thing, and what to do next.

    Args:
        message: one sentence naming the thing.
        hint: one sentence with the next step; may be empty.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def to_json(self) -> dict[str, Any]:
        """For another process of ours, which makes an error of it again (`error_from`)."""
        return {"error": self.message, "hint": self.hint, "code": self.exit_code}


class UsageError(ConscienceError):
    """Wrong use or configuration."""

    exit_code = 2


class ConfigError(UsageError):
    """A settings file, key or value is wrong."""


class PermissionsError(UsageError):
    """A private file or folder is open to other users."""


class AdapterError(ConscienceError):
    """An adapter, package or manifest is not what it claims."""

    exit_code = 10


class FormatError(AdapterError):
    """The container, header or format version cannot be read."""


class SignatureError(AdapterError):
    """A signature, hash chain or pinned key does not match."""

    exit_code = 11


class DowngradeError(AdapterError):
    """The version offered is older than the one held."""

    exit_code = 12


class ModelError(ConscienceError):
    """No base model could be loaded."""

    exit_code = 20


class BaseMismatchError(ModelError):
    """The base model at hand is not the one the federation agreed on."""

    exit_code = 21


class TrainingError(ConscienceError):
    """Training could not start or finish."""

    exit_code = 30


class NoDataError(TrainingError):
    """There is nothing to train on."""

    exit_code = 31


class NetworkError(ConscienceError):
    """The server could not be reached, or refused."""

    exit_code = 40


class InvitationError(NetworkError):
    """The invitation is used, expired, forged or malformed."""

    exit_code = 41


class RevokedError(NetworkError):
    """This node's key is not, or no longer, admitted."""

    exit_code = 42


class ClockError(NetworkError):
    """This machine's clock and the server's differ too much."""

    exit_code = 43


class TorError(NetworkError):
    """The way through Tor is closed, at the leg that the message names."""

    exit_code = 44


class BundleError(ConscienceError):
    """The code sent by the server is not the code installed here."""

    exit_code = 50


class RoomError(ConscienceError):
    """Another distribution owns one of our package names."""

    exit_code = 51


class ProcessError(ConscienceError):
    """A child process could not be started or kept alive."""

    exit_code = 60


class RoundError(ConscienceError):
    """A round could not be opened or finished."""

    exit_code = 70


def error_from(content: Mapping[str, Any]) -> ConscienceError:
    """The error that another process told, as the topmost class with its exit code."""
    kinds: list[type[ConscienceError]] = [ConscienceError]
    for kind in kinds:  # grows
        if kind.exit_code == content["code"]:
            return kind(content["error"], hint=content["hint"])
        kinds += kind.__subclasses__()
    return ConscienceError(content["error"], hint=content["hint"])
