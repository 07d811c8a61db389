"""What all calls have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from gateway.customerio.calls.addresses import (
    Address,
    WorkspaceIdentifiers,
    check_identifiers,
    lane_number,
    resolve_person,
)
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
        cleans: By field: what brings a value into the form that is sent.
        largest_key: The key that is too large where the whole call is.
        creates_person: Customer.io makes the person if there is none.
        erases: It takes something away for good, or keeps a person out.
    """

    name_of_call: ClassVar[str]
    about: ClassVar[str]
    checks: ClassVar[tuple[tuple[str, str, Check], ...]]
    cleans: ClassVar[tuple[tuple[str, Callable[[Any], Any]], ...]]
    largest_key: ClassVar[str] = "attributes"
    creates_person: ClassVar[bool] = False
    erases: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for field, clean in self.cleans:
            value = getattr(self, field)
            if value and (cleaned := clean(value)) != value:
                object.__setattr__(self, field, cleaned)

    @property
    def has_v1_form(self) -> bool:
        """Whether it can be sent by v1, which reads its path as the workspace does; else v2 is all there is."""
        return True

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
        problems = list(check_identifiers("", vars(self)))
        for field, name, check in self.checks:
            if (value := getattr(self, field)) is not None:
                problems.extend(check(name, value))
        problems.extend(self.other_violations())
        if not problems and not self.has_v1_form and (size := len(dump(self.operation()))) > MAX_ITEM_BYTES:
            problem = f"is {size} bytes of JSON; Customer.io takes {MAX_ITEM_BYTES}"
            problems.append(Violation(field=self.largest_key, problem=problem, fits=True))
        return problems

    def other_violations(self) -> Iterable[Violation]:
        """Return the violations that concern several keys, or that only this kind of call has."""
        return ()

    def request(self) -> HttpRequest:
        """Return the single request: the v1 form where v1 has one, else the v2 entity.

        The call violates no limit, and has an address where its kind needs one.
        """
        if self.has_v1_form:
            return self.v1_request()
        operation = self.operation()
        assert operation is not None, "a call without a v1 form has a v2 form"
        return json_request("POST", ENTITY_PATH, operation)

    def v1_request(self) -> HttpRequest:
        """Return the v1 form of a call that has one."""
        raise NotImplementedError

    def operation(self) -> dict[str, JSON] | None:
        """Return the v2 form; None: the call has none, or none that is known to do the same."""
        return None

    def item(self, workspace: WorkspaceIdentifiers | None = None) -> bytes | None:
        """Return the call as an item of a batch, which reaches the same person as its single request.

        None: it has no v2 form, one that is too large, or one that might reach another person.

        Args:
            workspace: The identifiers by which the workspace knows people; None: they are not known.
        """
        operation = self.operation_for(workspace)
        if operation is None:
            return None
        item = dump(operation)
        return item if len(item) <= MAX_ITEM_BYTES else None

    def operation_for(self, workspace: WorkspaceIdentifiers | None) -> dict[str, JSON] | None:
        """Return the v2 form that reaches whom a workspace reads in the v1 form; None: there is none for certain."""
        del workspace
        return self.operation()
