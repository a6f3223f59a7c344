"""What the workers say themselves, to compare with."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.types import Json, JsonObject
from tests.interop.clients import rendered
from tests.interop.clusters import Cluster
from tests.interop.wire import post_frames


@dataclass(frozen=True)
class Answer:
    """What a worker itself says to a prompt."""

    prompt: str
    text: str
    finish_reason: Json
    usage: Json


class Own:
    """Asks the workers directly, greedily, with the prompts that FastChat itself renders."""

    prompts: dict[str, JsonObject] = {}  # noqa: RUF012  rendered once for all clusters

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def prepare(self, model: str, dialogues: list[Json]) -> None:
        """Render several dialogues in one go; each run of FastChat's environment takes most of a second."""
        template = self.cluster.workers[model].template(model)
        missing = [each for each in dialogues if repr((template, each)) not in self.prompts]
        if missing:
            found = rendered(self.cluster.pythons, template, missing)
            self.prompts.update({repr((template, each)): body for each, body in zip(missing, found, strict=True)})

    def answer(self, model: str, said: Json, **parameters: Json) -> Answer:
        """The worker's answer to a dialogue (DB-GPT's messages), or to a string as it is."""
        plan = self.cluster.workers[model]
        body: JsonObject = {"prompt": said}
        if not isinstance(said, str):
            self.prepare(model, [said])
            prompt = self.prompts[repr((plan.template(model), said))]
            body = {key: value for key, value in prompt.items() if value is not None}
        body |= {"model": model, "temperature": 0.0, "echo": False, **parameters}
        frames = post_frames(f"{plan.url}/worker_generate_stream", body)
        assert all(frame["error_code"] == 0 for frame in frames), frames
        last = frames[-1]
        return Answer(str(body["prompt"]), str(last["text"]), last.get("finish_reason"), last.get("usage"))
