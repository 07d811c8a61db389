"""The call that submits a form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from gateway.customerio.calls.call import Call
from gateway.customerio.calls.kinds import Kind, call_class, key, shared
from gateway.customerio.calls.people import EMAIL, ID, TEXT_ATTRIBUTES
from gateway.customerio.limits import Violation, check_segment
from gateway.customerio.wire import HttpRequest, json_request, path_segment
from gateway.event import JSON

# Customer.io ignores fields with these names.
_RESERVED = ("form_id", "form_name", "form_type", "form_url", "form_url_param")


@call_class
class SubmitForm(Call):
    """Submit a form for a person; all *attributes* are texts."""

    name_of_call: ClassVar = "submit_form"
    about: ClassVar = "Submits a form for a person."
    creates_person: ClassVar = True
    form_id: str = key(
        Kind.TEXT, about="The id of the form.", example="signup", examples=("signup",), check=check_segment
    )
    id: str | None = shared(ID, default=None)
    email: str | None = shared(EMAIL, default=None)
    attributes: Mapping[str, JSON] = shared(TEXT_ATTRIBUTES, default_factory=dict)

    def other_violations(self) -> Iterator[Violation]:
        """Check the names of the attributes."""
        for name in ("id", "email", *_RESERVED):
            if name in self.attributes:
                effect = "names the person: write it beside 'attributes'" if name in ("id", "email") else "is ignored"
                yield Violation(field=f"attributes.{name}", problem=f"in a form, '{name}' {effect}")

    def request(self) -> HttpRequest:
        address = self.address()
        # The key tells the kind of an identifier here, so "cio_" in front of an id means nothing.
        is_email = address is not None and address.kind == "email"
        person: dict[str, JSON] = {"email": address.value} if address and is_email else {"id": self.id or self.email}
        path = f"/api/v1/forms/{path_segment(self.form_id)}/submit"
        return json_request("POST", path, {"data": {**self.attributes, **person}})
