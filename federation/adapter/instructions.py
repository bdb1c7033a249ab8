"""What a version asks of the nodes that train from it; a part of its signed manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, model_validator

Factors = Literal["A", "B", "AB"]


class Instructions(BaseModel):
    """What nodes train and send. The default is what most rules want: both factors, whole.

    Attributes:
        trains: factors that change in training; the others stay as they are.
        sends: of those, what goes into the package; the rest stays with the node.
        any_rank: whether a node may train and send leading rows alone.
        feedback: whether what a package's coding lost means anything for the next one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    trains: Factors = "AB"
    sends: Factors = "AB"
    any_rank: bool = False
    feedback: bool = True

    @model_validator(mode="before")
    @classmethod
    def _sends_what_it_trains(cls, content: object) -> object:
        if isinstance(content, dict) and "sends" not in content and "trains" in content:
            return content | {"sends": content["trains"]}
        return content

    @model_validator(mode="after")
    def _sends_no_more_than_it_trains(self) -> Instructions:
        if not set(self.sends) <= set(self.trains):
            raise ValueError(f"{self.trains} is trained and {self.sends} sent")
        return self


@dataclass(frozen=True)
class Terms:
    """What a version carries beside its weights; None: the same as the version before.

    Attributes:
        instructions: for the nodes that train from it.
        base: what is added to the frozen base model, f32 factors of scale 1; empty is nothing.
    """

    instructions: Instructions | None = None
    base: Mapping[str, npt.NDArray[np.float32]] | None = None


AS_BEFORE = Terms()
