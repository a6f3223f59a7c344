"""Nothing that the real programs say goes nowhere without a reason in the pack that drops it."""

from __future__ import annotations

from proxy.types import Json, JsonObject
from tests.interop.clients import DbgptClients, run_dbgpt
from tests.interop.clusters import CERTAIN, PLAIN, Cluster
from tests.interop.wire import get_json, post_events, post_object

MESSAGES: list[Json] = [{"role": "system", "content": "Be brief."}, {"role": "human", "content": "A fox?"}]


def lost(cluster: Cluster) -> dict[tuple[str, str, str], Json]:
    """How often each field, by rule, side and name, was dropped that is not accepted, since the rules were loaded."""
    page = get_json(f"{cluster.plan.admin}/rules")
    assert isinstance(page, dict)
    found: dict[tuple[str, str, str], Json] = {}
    for kind in ("routes", "operations"):
        rules = page[kind]
        assert isinstance(rules, list)
        for rule in rules:
            assert isinstance(rule, dict)
            dropped = rule["dropped"]
            assert isinstance(dropped, list)
            name = f"{rule.get('pack') or rule.get('backend')}/{rule.get('route') or rule.get('name')}"
            for each in dropped:
                if isinstance(each, dict) and not each["accepted"]:
                    found[name, str(each["side"]), str(each["field"])] = each["requests"]
    return found


def test_dbgpts_clients_lose_nothing(cluster: Cluster, clients: DbgptClients) -> None:
    """Its Python clients, its command line and its API server, each with what they send of themselves."""
    before = lost(cluster)  # other tests send what no program does
    clients.call("generate", model=PLAIN, messages=MESSAGES, temperature=0.0, max_new_tokens=8)
    clients.call("generate_stream", model=PLAIN, messages=MESSAGES, temperature=0.5, max_new_tokens=8)
    clients.call("count_token", model=PLAIN, prompt="A fox?")
    clients.call("models")
    typed = "Hello\n/exit\n"
    run_dbgpt(
        cluster.pythons, cluster.folder, cluster.dbgpt_controller, ["model", "chat", "--model_name", CERTAIN], typed
    )
    chat: JsonObject = {"model": PLAIN, "messages": [{"role": "user", "content": "A fox?"}], "max_tokens": 8}
    many: JsonObject = {
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.1,
        "user": "u",
    }
    post_object(f"{cluster.api}/chat/completions", {**chat, **many})
    post_events(f"{cluster.api}/chat/completions", {**chat, **many, "stream": True})
    post_object(f"{cluster.api}/completions", {"model": PLAIN, "prompt": "A fox", "max_tokens": 8})
    post_object(f"{cluster.api}/embeddings", {"model": CERTAIN, "input": ["A fox"]})
    found = {each for each, count in lost(cluster).items() if count != before.get(each)}
    assert not found, found
