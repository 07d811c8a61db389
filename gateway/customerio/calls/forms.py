"""The call that submits a form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gateway.customerio.calls.attributes import FORM
from gateway.customerio.calls.call import Call
from gateway.customerio.calls.kinds import Kind, call_class, key, shared
from gateway.customerio.calls.people import EMAIL, ID, attributes_with
from gateway.customerio.limits import check_segment
from gateway.customerio.wire import HttpRequest, json_request, path_segment
from gateway.event import JSON


@call_class
class SubmitForm(Call):
    """Submit a form for a person; all *attributes* are texts."""

    name_of_call: ClassVar = "submit_form"
    about: ClassVar = "Submits a form for a person."
    creates_person: ClassVar = True
    form_id: str = key(
        Kind.TEXT,
        about="The id of the form.",
        example="signup",
        examples=("signup",),
        check=check_segment,
        identifying=True,
    )
    id: str | None = shared(ID, default=None)
    email: str | None = shared(EMAIL, default=None)
    attributes: Mapping[str, JSON] = shared(attributes_with(FORM), default_factory=dict)

    def v1_request(self) -> HttpRequest:
        address = self.address()
        person = {} if address is None else address.identifiers
        path = f"/api/v1/forms/{path_segment(self.form_id)}/submit"
        return json_request("POST", path, {"data": {**self.attributes, **person}})
