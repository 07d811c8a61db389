"""Calls that add, update or delete a person's devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gateway.customerio.calls.attributes import DEVICE
from gateway.customerio.calls.kinds import Kind, call_class, key, shared
from gateway.customerio.calls.people import ToPerson, attributes_with
from gateway.customerio.limits import check_moment, check_segment
from gateway.customerio.wire import HttpRequest, json_request, path_segment
from gateway.event import JSON

PLATFORMS = ("ios", "android")


@call_class
class _ToDevice(ToPerson):
    token: str = key(
        Kind.REFERENCE,
        about="The token of the device.",
        example="=device.token",
        examples=("=device.token",),
        check=check_segment,
    )


@call_class
class AddDevice(_ToDevice):
    """Add or update a device of a person; *last_used* is in unix seconds."""

    name_of_call: ClassVar = "add_device"
    about: ClassVar = "Adds or updates a device of a person."
    creates_person: ClassVar = True
    platform: str = key(Kind.TEXT, about="The platform of the device.", example="ios", choices=PLATFORMS)
    last_used: int | None = key(
        Kind.TIMESTAMP,
        about="When the device was last used, in unix seconds.",
        examples=("=unix(device.seen_at)",),
        check=check_moment,
        default=None,
    )
    attributes: Mapping[str, JSON] = shared(attributes_with(DEVICE), default_factory=dict)

    @property
    def moment(self) -> int | None:
        """When the device was last used: the only time that such a call has."""
        return self.last_used

    def v1_request(self) -> HttpRequest:
        device = {"id": self.token, **self._details()}
        return json_request("PUT", f"{self.person_path()}/devices", {"device": device})

    def operation(self) -> dict[str, JSON]:
        return self.person_operation("add_device", device={"token": self.token, **self._details()})

    def _details(self) -> dict[str, JSON]:
        details: dict[str, JSON] = {"platform": self.platform}
        if self.last_used is not None:
            details["last_used"] = self.last_used
        if self.attributes:
            details["attributes"] = dict(self.attributes)
        return details


@call_class
class DeleteDevice(_ToDevice):
    """Delete a device of a person."""

    name_of_call: ClassVar = "delete_device"
    about: ClassVar = "Deletes a device of a person."

    def v1_request(self) -> HttpRequest:
        return HttpRequest(method="DELETE", path=f"{self.person_path()}/devices/{path_segment(self.token)}")

    def operation(self) -> dict[str, JSON]:
        return self.person_operation("delete_device", device={"token": self.token})
