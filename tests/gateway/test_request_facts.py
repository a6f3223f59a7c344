"""What rules can read of a request beside what its client sent: its time and its own id."""

from __future__ import annotations

import string
import time
from pathlib import Path

from tests.gateway.client import call
from tests.gateway.rig import running
from tests.gateway.scripted import scripted

PACK = """
pack: facts
description: A call that is answered with the facts of its request.
"""
ERRORS = """
kinds: {default: {status: 500, code: 1}}
body: {fields: {detail: error.message}}
"""
ROUTE = """
route: facts
description: The facts.
match: {method: GET, path: /facts}
worker: {need: none}
answer: {body: {fields: {id: request_id, at: now}}}
tests:
  - name: the same in each test
    given: {request: {}}
    expect: {answer: {id: 0123456789abcdef0123456789abcdef, at: 1700000000}}
"""


async def test_each_request_has_its_time_and_an_id_of_its_own(tmp_path: Path) -> None:
    for name, text in (("pack", PACK), ("errors", ERRORS), ("facts", ROUTE)):
        (tmp_path / f"{name}.yaml").write_text(text)
    before = int(time.time())
    async with scripted({}) as worker, running(worker.address, rules=tmp_path) as rig:
        replies = [(await call(rig.listen, "GET", "/facts")).object for _ in range(20)]
    ids = [str(reply["id"]) for reply in replies]
    assert len(set(ids)) == len(ids)
    assert all(len(each) == 32 and set(each) <= set(string.hexdigits.lower()) for each in ids)
    assert all(type(reply["at"]) is int and before <= reply["at"] <= time.time() for reply in replies)
