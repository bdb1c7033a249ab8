"""How this node takes part: how large its adapter may be, how far it strays, how much it tells."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class SharingSettings(BaseModel):
    """Part `sharing` of `node_config.json`.

    Attributes:
        max_rank: rows of the adapter that training may take, for a machine with little room, where
            the federation's rule allows it; 0 is all.
        proximal_mu: FedProx (arXiv 1812.06127): training is pulled back to the global adapter by
            the gradient of mu / 2 times the squared distance, in factors; 0 is not at all.
        clip_norm: the change of the factors sent is made no longer than this (L2, all of them
            together); 0 is no limit. Needed for noise.
        noise_multiplier: local differential privacy: Gaussian noise of this times `clip_norm` on
            every value of the change sent; 0 is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    max_rank: int = Field(default=0, ge=0, le=4096)
    proximal_mu: float = Field(default=0.0, ge=0)
    clip_norm: float = Field(default=0.0, ge=0)
    noise_multiplier: float = Field(default=0.0, ge=0)
