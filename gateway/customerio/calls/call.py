"""What all calls have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from gateway.customerio.calls.addresses import IDENTIFIERS, Address, check_address, lane_number, resolve_person
from gateway.customerio.calls.kinds import Check, call_class
from gateway.customerio.limits import Violation, check_encoding
from gateway.customerio.wire import ENTITY_PATH, MAX_ITEM_BYTES, HttpRequest, dump, json_request
from gateway.event import JSON


@call_class
class Call:
    """One intended Customer.io operation.

    A kind of call is a subclass with its keys as fields. It overrides the methods that do not hold for it.

    Attributes:
        name_of_call: Its name in mappings and in stored texts.
        about: The sentence that an editor shows.
        checks: By field and key: what checks a value.
        creates_person: Customer.io makes the person if there is none.
    """

    name_of_call: ClassVar[str]
    about: ClassVar[str]
    checks: ClassVar[tuple[tuple[str, str, Check], ...]]
    creates_person: ClassVar[bool] = False

    @property
    def moment(self) -> int | None:
        """When what the call reports happened, in unix seconds, where its author says so."""
        return getattr(self, "timestamp", None)

    def address(self) -> Address | None:
        """Return the person that the call goes to; None: it names nobody, or goes to no one person."""
        return resolve_person(vars(self))

    def lanes(self, connection: str) -> tuple[int, ...]:
        """Return the lanes in which the call keeps its order; none: its order does not matter."""
        address = self.address()
        return () if address is None else (lane_number(connection, address.lane_key),)

    def violations(self, text: str | None = None) -> list[Violation]:
        """Return everything in the call that Customer.io would refuse, silently replace or silently drop.

        Args:
            text: JSON in ASCII that contains the call, if the caller has it. Its length and its escapes show without
                another encoding that the call is small enough and valid Unicode.
        """
        # An escaped surrogate is half of a character, or one of the pair that is a whole one.
        if (text is None or "\\ud" in text) and (problems := list(check_encoding(vars(self)))):
            return problems
        problems = []
        if (address := self.address()) is not None:
            key = next(name for name in IDENTIFIERS if getattr(self, name, None))
            problems.extend(check_address(key, address))
        for field, name, check in self.checks:
            if (value := getattr(self, field)) is not None:
                problems.extend(check(name, value))
        problems.extend(self.other_violations())
        return problems

    def other_violations(self) -> Iterable[Violation]:
        """Return the violations that concern several keys, or that only this kind of call has."""
        return ()

    def request(self) -> HttpRequest:
        """Return the single request: the v1 form where v1 has one, else the v2 entity.

        The call violates no limit, and has an address where its kind needs one.
        """
        operation = self.operation()
        assert operation is not None, "a call without a v2 form has a v1 form"
        return json_request("POST", ENTITY_PATH, operation)

    def operation(self) -> dict[str, JSON] | None:
        """Return the v2 form; None: the call has none, or none that is known to do the same."""
        return None

    def item(self) -> bytes | None:
        """Return the call as an item of a batch; None: it has no v2 form, or one that is too large."""
        operation = self.operation()
        if operation is None:
            return None
        item = dump(operation)
        return item if len(item) <= MAX_ITEM_BYTES else None
