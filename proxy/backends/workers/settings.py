"""How often workers and controllers are asked, and how patient we are. Times in seconds, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from proxy.backends.control import CallLimits

# Where a worker's address comes from, beside the base addresses of controllers.
NAMED: Final = "settings"
REGISTERED: Final = "registration"


@dataclass(frozen=True)
class SourceSettings:
    """Defaults suit a fleet on one network.

    probes_to_down: misses in a row before a worker that was up counts as down; a refused connection needs no second.
    probes_to_up: good answers in a row before one that was down is used again; the first in its life needs no second.
    probe_gap: least time between two probes of a worker. facts_ttl: after this a worker's facts are fetched again
    without a reason. busy_seconds: a worker that has requests of ours and answers no status is taken for busy, not for
    stuck, for so long after something last came from it. look_retry: as facts_ttl, for a worker of which some model
    could not be used. forget_after: a worker that nobody named in the settings is dropped when it was down this long.
    newcomer_seconds: one that registered and never answered is dropped after this. resolve_burst: most address
    questions in a row for one model.
    probe_embeddings: False for fleets where no worker may be asked for a vector.
    """

    probe_interval: float = 2.0
    probe_gap: float = 0.1
    connect_timeout: float = 2.0
    status_timeout: float = 3.0
    look_timeout: float = 5.0
    embed_timeout: float = 30.0
    # An embeddings call holds up a worker's event loop while its model runs, half a minute for a large batch.
    busy_seconds: float = 30.0
    probes_to_down: int = 3
    probes_to_up: int = 1
    facts_ttl: float = 300.0
    look_retry: float = 15.0
    list_interval: float = 5.0
    resolve_interval: float = 30.0
    resolve_burst: int = 16
    forget_after: float = 600.0
    newcomer_seconds: float = 60.0
    probe_embeddings: bool = True
    # More workers than one gateway's share of a cluster, more models than fit on one machine.
    max_workers: int = 256
    max_models_per_worker: int = 64
    max_listed_models: int = 256
    max_name: int = 256
    # FastChat's own: model_worker, multi_model_worker and huggingface_api_worker work on 5 requests at once; the
    # programs that have no call for embeddings (vllm, sglang, lightllm, mlx, dashinfer) on 1,024.
    usual_limit: int = 5
    limit_without_embeddings: int = 1024
    # A template with long few-shot messages is 100 kB; an embedding of 16,384 numbers as text 400 kB.
    max_body: int = 1_000_000
    max_embedding_body: int = 4_000_000
    # A registry of some thousand rows, or a list of some hundred models with all that is known of them, is 1 MB.
    max_list_body: int = 4_000_000

    def status_limits(self) -> CallLimits:
        """For the status call."""
        return CallLimits(self.connect_timeout, self.status_timeout, self.max_body)

    def look_limits(self) -> CallLimits:
        """For the small calls of a full look, and for controllers."""
        return CallLimits(self.connect_timeout, self.look_timeout, self.max_body)

    def list_limits(self) -> CallLimits:
        """For what lists many workers or models."""
        return CallLimits(self.connect_timeout, self.look_timeout, self.max_list_body)

    def embed_limits(self) -> CallLimits:
        """For the embeddings probe."""
        return CallLimits(self.connect_timeout, self.embed_timeout, self.max_embedding_body)
