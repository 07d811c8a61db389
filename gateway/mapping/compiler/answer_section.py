"""Compile `answer`: the response to webhooks that were accepted, for senders that read or check it."""

from __future__ import annotations

import re
from dataclasses import replace

from gateway.mapping.diagnostics import Diagnostics, is_empty, location_of
from gateway.mapping.model import Verify
from gateway.mapping.value_nodes import read_optional_text
from gateway.mapping.yaml_nodes import ObjectNode, Scalar
from gateway.verify import PrescribedResponse

#: The keys under `answer`.
ANSWER_KEYS = ("status", "body", "content_type")
#: Bytes: a sender may receive it for each webhook.
MAX_ANSWER = 16_384
CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:; ?[A-Za-z0-9-]+=[A-Za-z0-9._-]+)*")
#: Statuses that say "accepted". HTTP allows no body with these two of them.
STATUSES, WITHOUT_BODY = range(200, 300), (204, 205)


def read_answer(top: ObjectNode, verify: Verify | None, diagnostics: Diagnostics) -> PrescribedResponse | None:
    """Compile `answer`; without it, that of the scheme counts. None: the gateway's own."""
    node = top.get("answer")
    if not isinstance(node, ObjectNode):
        text = "'answer' must be an object, e.g.  answer: {status: 200, body: OK, content_type: text/plain}"
        diagnostics.refuse_unless_absent(node, text)
        return None if verify is None else verify.scheme.answer
    diagnostics.refuse_unknown_keys(node, ANSWER_KEYS, "in 'answer'")
    answer = PrescribedResponse(status=_read_status(node, diagnostics), text=_read_body(node, diagnostics))
    content_type = read_optional_text(node, "content_type", diagnostics)
    if content_type is not None and not CONTENT_TYPE.fullmatch(content_type):
        text = "'content_type' must be a media type, such as text/xml; charset=utf-8"
        diagnostics.error(location_of(node, "content_type"), "answer", text)
    elif content_type is not None and answer.text is None:
        text = "'content_type' is that of 'body'; add one, or remove it"
        diagnostics.error(location_of(node, "content_type"), "answer", text)
    elif content_type is not None:
        answer = replace(answer, content_type=content_type)
    if answer.text and answer.status in WITHOUT_BODY:
        text = f"a response with the status {answer.status} has no body; remove 'body', or write  status: 200"
        diagnostics.error(location_of(node, "body"), "answer", text)
    return answer


def _read_status(node: ObjectNode, diagnostics: Diagnostics) -> int:
    status = node.get("status")
    if isinstance(status, Scalar) and type(status.value) is int and status.value in STATUSES:
        return status.value
    if status is not None and not is_empty(status):
        text = "'status' must be from 200 to 299: the webhook is accepted, and another status makes senders repeat it"
        diagnostics.error(status.location, "answer", text)
    return 200


def _read_body(node: ObjectNode, diagnostics: Diagnostics) -> str | None:
    body = read_optional_text(node, "body", diagnostics)
    if body is not None and len(body.encode()) > MAX_ANSWER:
        diagnostics.error(location_of(node, "body"), "answer", f"'body' is longer than {MAX_ANSWER:,} bytes")
    return body
