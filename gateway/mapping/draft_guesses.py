"""Guess what a captured webhook says: its type, key and time, the person, and the attributes worth keeping.

The body is flattened to fields. `score` weighs a field by the words of its name, less what lies around it, and the
highest score wins. The tables hold general words, never a rule for one sender, so a guess may be wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

from gateway.customerio.limits import MAX_ID_BYTES, is_moment
from gateway.errors import ExpressionError, GatewayError
from gateway.event import JSON
from gateway.mapping.expressions import BadExpression, Scope, compile_expression

Path: TypeAlias = tuple[str | int, ...]

# Words in names, in lower case and in the singular


def _ranked(words: str) -> dict[str, int]:
    """Weigh words by their place: 100 for the first, 1 less for each further one."""
    return {word: 100 - at for at, word in enumerate(words.split())}


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


TYPES = _ranked(
    "event_type event_name event topic notification_type record_type subscription_type type webhook_event webhook_type"
    " trigger trigger_event message_type alert_name action event_action scope kind metric message_status sms_status"
)
#: A type of these words alone says only that there is an event.
VAGUE = _set("event notification webhook callback hook message api")
KEYS = {"event_id": 100, "sg_event_id": 100, "notification_id": 95, "message_id": 70, "delivery_id": 60}
TIMES = _ranked(
    "occurred_at event_time event_timestamp timestamp ts_event time ts fired_at triggered_at emitted_at submitted_at"
    " starred_at published_at paid_at completed_at updated_at date_modified_gmt created created_at date_created_gmt"
    " ts_epoch event_date sent_at delivered_at changed_at bounced_at received_at date_sent date_updated sent_at_date"
    " date_created s_epoch date"
)
#: What payloads call the person. At the end is who caused the event, for payloads that name nobody better.
ROLES = _ranked(
    "customer subscriber contact identifier user enduser member lead invitee person consumer registrant attendee"
    " respondent requester recipient donor buyer payer purchaser shopper prospect signer student learner patient"
    " applicant candidate visitor guest participant profile player passenger supporter sender actor reporter client"
)
#: Roles that go with any other role.
ANY_ROLE = {None, "recipient", "profile", "person", "identifier"}
#: Staff, senders and others who are named in a payload, but are not the person.
STRANGERS = _set(
    "admin administrator agent staff employee operator teammate moderator bot assignee assigned owner host organizer"
    " organiser inviter creator membership merchant seller vendor supplier support pusher committer bcc cc reply"
    " authorization authed previous old by verification"
)
ORGANISATIONS = _set(
    "shop store brand site app application workspace tenant team company business organization organisation group"
    " repository installation location domain"
)
#: What has ids and emails of its own, but is no person.
THINGS = ORGANISATIONS | _set("account device commit card order invoice")
IDS = _set("id ids uuid guid uid sid gid")
#: Names that do not say whose id it is.
BARE_IDS = IDS | _set("object_id entity_id record_id resource_id external_id")
#: Where an object says what it is.
KINDS = _set("object type object_type record_type resource_type kind")
OF_PEOPLE = _set("first_name last_name firstname lastname username given_name full_name")
EMAILS = _set("email emails mail emailaddress")
FROM, TO = _set("from sender return"), _set("to recipient rcpt")
#: Objects around a field that do not say whose it is.
NEAR = EMAILS | FROM | TO | _set("billing shipping detail info receipt primary headers")
#: Objects that only wrap what is around them: ``member.current`` is a member.
WRAPPERS = _set(
    "data object payload item content contents detail details resource record attributes event event_data result"
    " response form_response entity model traits properties context hidden new current after message message_data"
    " merges merge_fields variables user_variables metadata custom_data fields body meta"
)

#: Attributes. Only names of these tables are taken, so that no secret is ever sent on.
PERSONAL = _set(
    "first_name last_name full_name name phone phone_number company job_title country country_code city locale language"
    " timezone time_zone gender birthday plan role state region"
)
SPELLINGS = {"fname": "first_name", "firstname": "first_name", "lname": "last_name", "lastname": "last_name"}
USEFUL = _set(
    "amount total price subtotal tax discount fee balance revenue currency status plan title name subject product"
    " quantity reason score rating category coupon priority"
)
#: Money is often a whole number of cents.
MONEY = _set("amount total price subtotal tax discount fee balance revenue")

#: Names of lists that hold events.
BATCHES = ("events", "batch", "notifications", "records", "entries", "messages")

MAX_DEPTH = 8
MAX_NAME = 80  # characters; a longer name is data that somebody uses as a name
LARGEST = 10**300  # a mapping file holds no larger number
LEAST_SCORE = 40  # of who the person is: less would be a lottery
MAX_TEXT = 200  # characters of a text that is worth being an attribute


class DraftError(GatewayError):
    """No mapping can be drafted from a payload."""


class Guesses:
    """All guesses at one webhook.

    Attributes:
        split: The list of events that the body is (""), or its name in the body; None: the body is one event.
        sample: The fields of the event, or of the first one of the list.
        person: The identifiers by their names in a mapping.
        of_person: The attributes of `identify`, and *of_event* those of `track`, by their names.
        removes: The event says that the person is gone; *identifies*: it says something about one who is not.

    Raises DraftError: the body has no fields.
    """

    def __init__(self, body: JSON, headers: Mapping[str, str]) -> None:
        self.split, event = _first_event(body)
        if not isinstance(event, dict) or not event:
            raise DraftError("the payload has no fields: it has to be an object, or a list of objects, of a webhook")
        self.sample = sample = Sample(event, headers)
        self.type = _guess_type(sample)
        self.event_type = str(sample.value_of(self.type)) if self.type else None
        self.key = _guess_key(sample, self.type)
        self.time = _guess_time(sample, self.event_type)
        self.person = _guess_person(sample, self.event_type, self.key)
        routing = filter(None, (self.type, self.key, self.time))
        used = {path for guess in (*routing, *self.person.values()) for path in guess.reads}
        self.of_person, self.of_event = _guess_attributes(sample, self.person, self.event_type, used)
        is_removal = re.search("delet|destroy|remov|eras|redact|suppress", (self.event_type or "").lower())
        self.removes = bool(is_removal and role_of(*subject(self.event_type)))
        names = self.person.keys() & {"id", "email"}
        self.identifies = not self.removes and (len(names) == 2 or bool(names and self.of_person))
        self.of_person = self.of_person if self.identifies else {}


@dataclass(frozen=True, kw_only=True)
class Guess:
    """An expression without the "=", and the paths to what it reads of the payload.

    Attributes:
        note: What to check.
        role: What the payload calls the person whom the expression names.
        holder: The names of the objects around it, where the innermost one is about this person only.
    """

    expression: str
    reads: tuple[Path, ...] = ()
    note: str = ""
    score: int = 0
    role: str | None = None
    holder: tuple[str, ...] | None = None


# Fields


@dataclass(frozen=True, kw_only=True, eq=False)
class Field:
    """A text, number, boolean or null of a payload, and the object that it stands in."""

    path: Path
    value: JSON
    owner: Mapping[str, JSON]

    @cached_property
    def guess(self) -> Guess:
        return Guess(expression=jmespath(self.path), reads=(self.path,))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names on the path in snake case, without list positions."""
        return tuple(snake(step) for step in self.path if isinstance(step, str))

    @cached_property
    def words(self) -> tuple[str, ...]:
        return words(self.names[-1])

    @cached_property
    def around(self) -> list[str]:
        """The names of the objects around it that do more than wrap the event's content."""
        return [name for name in self.names[:-1] if name not in WRAPPERS]

    @property
    def in_list(self) -> bool:
        return len(self.path) > len(self.names)


class Sample:
    """The fields of an event, those *top* that stand in no object, and the headers by their names as captured."""

    def __init__(self, event: JSON, headers: Mapping[str, str]) -> None:
        self.event = event
        # A name with other characters cannot stand in header('…').
        self.headers = {name: value for name, value in headers.items() if re.fullmatch("[A-Za-z0-9_-]+", name)}
        self.fields = [field for field in _flatten(event, (), {}) if field.names and field.words]
        self.top = [field for field in self.fields if len(field.names) == 1]

    def value_of(self, guess: Guess) -> JSON:
        """Evaluate a guess; an expression that fails on this event gives null."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        scope = Scope(root=self.event, body=self.event, headers=headers, query={}, received_at=0)
        try:
            return compile_expression(guess.expression).evaluate(self.event, scope)
        except (BadExpression, ExpressionError):
            return None


def _flatten(value: JSON, path: Path, owner: Mapping[str, JSON]) -> Iterator[Field]:
    """Yield the fields of a payload; of each list those of the first item."""
    if isinstance(value, str | None) or (isinstance(value, int | float) and abs(value) < LARGEST):
        yield Field(path=path, value=value, owner=owner)
    elif isinstance(value, dict) and len(path) < MAX_DEPTH:
        for name, item in value.items():
            if 0 < len(name) <= MAX_NAME:
                yield from _flatten(item, (*path, name), value)
    elif isinstance(value, list) and value and len(path) < MAX_DEPTH:
        yield from _flatten(value[0], (*path, 0), owner)


def jmespath(path: Path) -> str:
    """Write a path as an expression: ``a."b-c"[0].d``."""
    text = ""
    for step in path:
        is_plain = re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", str(step)) and step not in ("true", "false", "null")
        quoted = step if is_plain else json.dumps(step, ensure_ascii=not str(step).isprintable())
        text += f"[{step}]" if isinstance(step, int) else f".{quoted}"
    return text.removeprefix(".") or "@"


_HUMP = re.compile(r"(?<=[^\W_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def words(name: object) -> tuple[str, ...]:
    """Split a name at separators and capitals: `sg_event_id`, `userId` and `Message-ID` alike."""
    return tuple(re.findall(r"[^\W_]+", _HUMP.sub(" ", str(name)).lower()))


def snake(name: object) -> str:
    """Write a name in snake case."""
    return "_".join(words(name))


def singular(word: str) -> str:
    """Return a word without the s of a plural."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def has_word(names: Iterable[object], table: Collection[str]) -> bool:
    """Return whether a word of some names is in a table, in the plural too."""
    return any(word in table or singular(word) in table for name in names for word in words(name))


def segments(event_type: str | None) -> list[str]:
    """Split an event type: ``customer.subscription.created`` has three segments."""
    return [segment for segment in re.split("[./:]", event_type or "") if words(segment)]


def subject(event_type: str | None) -> tuple[str, ...]:
    """Return the words for what an event type says something happened to; the verb comes last."""
    parts = segments(event_type)
    return words(parts[-2]) if len(parts) > 1 else words(event_type or "")[:-1]


def role_of(*names: str) -> str | None:
    """Return the role in which the last of some names ends: ``billing_customers`` are customers."""
    last = words(names[-1])[-1:] if names else ()
    return next((role for word in last for role in (word, singular(word)) if role in ROLES), None)


def score(field: Field, weight: int, *, per_wrapper: int = 3) -> int:
    """Take from the weight of a name what lies around the field; 0 for a field that is about somebody else."""
    if not weight or has_word(field.names, STRANGERS):
        return 0
    for name in field.names[:-1]:
        weight -= per_wrapper if name in WRAPPERS or role_of(name) or has_word([name], NEAR) else 15
    return max(0, weight)


def _best(fields: Iterable[Field], points: Callable[[Field], int]) -> Guess | None:
    """Return the guess of the field with the most points, of equal ones the first; None if all have 0."""
    best = max(fields, key=points, default=None)
    return best.guess if best is not None and points(best) > 0 else None


# The event


# A word or some, without what has a meaning under `events` of a mapping; neither a link, an email, an id nor a number.
_TYPE = re.compile(r"(?!https?://|[^@\s]+@|.*[0-9]{5}|[0-9.:/ -]*\Z)[^\W_](?:[^|*\n]{0,78}[^|*\s])?", re.IGNORECASE)
_TYPE_HEADER = re.compile(r"(?:^|-)(topic|event|event-(?:type|name|key|kind)|ce-type)$")


def _is_type(value: JSON) -> bool:
    return isinstance(value, str) and value.isprintable() and _TYPE.fullmatch(value) is not None


def _first_event(body: JSON) -> tuple[str | None, JSON]:
    """Return the name of the list of events in a body ("": the body is the list) and its first event."""
    names = BATCHES if isinstance(body, dict) and _guess_type(Sample(body, {})) is None else ()
    lists = {"": body, **({name: body.get(name) for name in names} if isinstance(body, dict) else {})}
    for name, items in lists.items():
        event = (
            next((item for item in items if isinstance(item, dict) and item), None) if isinstance(items, list) else None
        )
        if event is not None and (not name or _guess_type(Sample(event, {}))):
            return name, event
    return None, body


def _guess_type(sample: Sample) -> Guess | None:
    """Guess what tells the type of an event: a header or a field, with the action beside it if it says too little."""

    def points(field: Field) -> int:
        if not _is_type(field.value) or len(field.path) > 2 or not WRAPPERS.issuperset(field.names[:-1]):
            return 0
        weight = TYPES.get(field.names[-1], 0)
        return score(field, weight // 3 if _is_vague(field.value) else weight, per_wrapper=30)

    headers = [name for name, value in sample.headers.items() if _TYPE_HEADER.search(name.lower()) and _is_type(value)]
    if headers:
        guess = Guess(expression=f"header('{max(headers, key=lambda name: len(segments(sample.headers[name])))}')")
    elif (best := _best(sample.fields, points)) is not None:
        guess = best
    else:
        return None
    action = next((field.guess for field in sample.top if field.names == ("action",) and _is_type(field.value)), guess)
    # `orders/paid` is whole; `order` says only what the action happened to.
    if action == guess or re.search("[./: ]", str(sample.value_of(guess))):
        return guess
    joined = f"join('.', [{guess.expression}, {action.expression}])"
    return Guess(expression=joined, reads=guess.reads + action.reads)


def _is_vague(value: JSON) -> bool:
    return VAGUE.issuperset(words(value))


_KEY_HEADER = re.compile(r"(?:^|-)(?:delivery|delivery-id|event-id|message-id|notification-id|idempotency-key)$")
_EVENT_ID = re.compile(r"(?:evt|event|ev|ntf|notif|notification|msg|wh|whk)[_-]\w+")


def _guess_key(sample: Sample, event_type: Guess | None) -> Guess | None:
    """Guess what is the id of the event itself, rather than of something that many events are about."""
    for name, value in sample.headers.items():
        if _KEY_HEADER.search(name.lower()) and value.strip():
            return Guess(expression=f"header('{name}')")
    # Of a mail there are many events.
    is_mail = has_word((field.names[-1] for field in sample.top), EMAILS | FROM | TO | {"subject", "sms", "status"})

    def points(field: Field) -> int:
        name, text = field.names[-1], str(field.value)
        if field.in_list or field.around or not isinstance(field.value, str | int) or not 0 < len(text.strip()) <= 200:
            return 0
        weight = KEYS.get(name, 0)
        if name == "message_id" and (is_mail or len(field.names) > 1):
            weight = 0
        if name in ("id", "uuid"):
            # The envelope has the type beside its id, and an object with the content.
            is_envelope = event_type is not None and field.path[:-1] in {path[:-1] for path in event_type.reads}
            has_content = any(isinstance(item, dict) and len(item) > 1 for item in field.owner.values())
            is_whole = has_content or field.names[-2:-1] in (("event",), ("event_data",))
            weight = 85 if (is_envelope and is_whole) or _EVENT_ID.fullmatch(text) else 0
        return score(field, weight, per_wrapper=20)

    return _best(sample.fields, points)


def _guess_time(sample: Sample, event_type: str | None) -> Guess | None:
    """Guess when the event happened: the likeliest field that holds a time which Customer.io takes."""

    def points(field: Field) -> int:
        is_near = not field.in_list and all(name in snake(event_type or "") for name in field.around)
        return score(field, TIMES.get(field.names[-1], 0), per_wrapper=12) if is_near else 0

    for field in sorted(filter(points, sample.fields), key=points, reverse=True):
        for guess in (field.guess, replace(field.guess, expression=f"unix({field.guess.expression})")):
            if is_moment(sample.value_of(guess)):
                return guess
    return None


# The person


def _guess_person(sample: Sample, event_type: str | None, key: Guess | None) -> dict[str, Guess]:
    """Guess who an event is about, by the names of identifiers.

    Payloads also name those who sell, send, own or look after something.
    """
    ids, emails = (
        sorted((guess for guess in guesses if guess.score >= LEAST_SCORE), key=lambda guess: -guess.score)
        for guesses in (_ids(sample, event_type, key), _emails(sample, event_type))
    )
    if ids:  # the email of somebody else would make two people one
        emails = [email for email in emails if email.role in {ids[0].role, *ANY_ROLE}]
    else:
        emails = [email for email in emails if sample.value_of(email) is not None]
    unknown = [field.guess for field in sample.fields if field.names[-1] == "anonymous_id" and _is_id(field.value)]
    guesses = {"id": ids, "email": emails, "anonymous_id": unknown}
    return {name: likely[0] for name, likely in guesses.items() if likely}


# Guests have the id 0, or a word for none.
_NO_ID = re.compile(r".*[\s<>]|https?://|.+@.+|\.{1,2}\Z|(?:0+|-+|null|none|undefined|unknown)\Z", re.IGNORECASE)


def _is_id(value: JSON) -> bool:
    if isinstance(value, str):
        return value.isprintable() and 0 < len(value.encode()) <= MAX_ID_BYTES and not _NO_ID.match(value)
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**30


def _ids(sample: Sample, event_type: str | None, key: Guess | None) -> Iterator[Guess]:
    """Yield what may be the person's id."""
    for field in sample.fields:
        if not _is_id(field.value) or (key is not None and field.path in key.reads):
            continue
        own, is_bare, around = field.words, field.names[-1] in BARE_IDS, _role_around(field)
        doubt, holder = len(own), field.names[:-1] if around else None
        declared = _declared(field, event_type)
        if is_bare and around:
            # customer.id; but a sender or an actor may be an organisation, or a bot.
            is_other = ROLES[around] <= ROLES["user"] and has_word(declared, THINGS | STRANGERS)
            role = None if is_other else around
        elif is_bare and not field.around and not field.in_list:
            # The content of the event: a person by its own word, by its fields, or by the event's type.
            has_email = has_word(field.owner, EMAILS)
            is_person = has_email and not OF_PEOPLE.isdisjoint(map(snake, field.owner))
            role = role_of(*declared[:1]) or ("person" if is_person else None)
            holder, doubt = field.names[:-1] if role or has_email else None, doubt - (10 if role else 0)
            role = role_of(*subject(event_type)) if role is None and not declared else role
        elif not is_bare and own[-1] in IDS:
            # customer_id; but where there is a customer, even an unknown one, the user is one of the seller's.
            role = role_of(*own[:-1])
            is_staff = role == "user" and any(words(name)[:1] == ("customer",) for name in field.owner)
            role = None if is_staff and not around else role
        elif own[-1].endswith("id"):
            role = role_of(own[-1][:-2])  # userid
        else:
            # A field `customer` may hold an id; without a digit it is more likely a name.
            role = own[0] if own[0] in ROLES and len(own) == 1 and isinstance(field.value, str) else None
            doubt = 5 if re.search("[0-9]", str(field.value)) else 50
        if role is not None:
            yield replace(field.guess, score=score(field, ROLES[role] - doubt), role=role, holder=holder)


def _declared(field: Field, event_type: str | None) -> list[str]:
    """Return what the object around a field says that it is."""
    kinds = (str(value) for name, value in field.owner.items() if snake(name) in KINDS and _is_type(value))
    return [kind for kind in kinds if kind != event_type and not _is_vague(kind)]


def _role_around(field: Field) -> str | None:
    return next((role_of(name) for name in reversed(field.names[:-1]) if name not in WRAPPERS), None)


_EMAIL = re.compile(r"[^@\s<>,;:\"()]+@[^@\s<>,;:\"()]+")
_NAMED_EMAIL = re.compile(rf"[^<>@]*<{_EMAIL.pattern}>")


def _emails(sample: Sample, event_type: str | None) -> Iterator[Guess]:
    """Yield what may be the person's email."""
    is_inbound = any("body" in field.words and {"text", "html", "raw"} & {*field.words} for field in sample.top)
    ours = TO if is_inbound else FROM
    is_of_many = has_word(subject(event_type)[-1:], ORGANISATIONS)
    for field in sample.fields:
        near = [name for name in field.names if name not in WRAPPERS]
        direction = {word for name in near[-2:] for word in name.split("_")}
        is_other = has_word(near[-2:], THINGS) or IDS & {*field.words} or (is_of_many and not field.around)
        expression = _email_in(field)
        if expression is None or is_other or (direction & ours and not direction & EMAILS):
            continue
        points = score(field, LEAST_SCORE if field.value is None else 60)
        roles = (role for name in reversed(near) for word in reversed(name.split("_")) if (role := role_of(word)))
        role = next(roles, None)
        points += ROLES.get(role or "", 0) // 10 if points else 0
        holder = field.names[:-1] if _role_around(field) else None
        yield replace(field.guess, expression=f"lower({expression})", score=points, role=role, holder=holder)


def _email_in(field: Field) -> str | None:
    """Return the expression for the email in a field; an empty field of that name holds one in other webhooks."""
    text, expression = str(field.value).strip(), field.guess.expression
    if field.value is None:
        return expression if EMAILS & {*field.words} else None
    if not text.isprintable() or len(text.encode()) > MAX_ID_BYTES:
        return None
    if _NAMED_EMAIL.fullmatch(text):  # Ida <ida@example.com>
        return f"first(split(last(split({expression}, '<')), '>'))"
    if not _EMAIL.fullmatch(text):
        return None
    return expression if text == field.value else f"trim({expression})"


def empty_fields(sample: Sample) -> list[Field]:
    """Return the fields that may name the person in other payloads; in this one they are empty."""
    empty = [field for field in sample.fields if field.value is None and score(field, LEAST_SCORE)]
    return [field for field in empty if role_of(field.names[-1].removesuffix("_id")) or EMAILS & {*field.words}]


# Attributes


def _guess_attributes(
    sample: Sample, person: Mapping[str, Guess], event_type: str | None, used: Collection[Path]
) -> tuple[dict[str, Guess], dict[str, Guess]]:
    """Choose the attributes of the person, and those of the event, by their names."""
    of_person: dict[str, Guess] = {}
    of_event: dict[str, Guess] = {}
    for field in sample.fields:
        text, guess = str(field.value), field.guess
        # Emails of others, ids of machines, markup and JSON within JSON say nothing in a mail.
        is_readable = 0 < len(text) <= MAX_TEXT and text.isprintable() and not re.search(r"@|^\s*[<{\[]|\S{40}", text)
        if field.value is None or field.path in used or field.in_list or not is_readable:
            continue
        if has_word(field.words, MONEY) and type(field.value) is int and field.value >= 100:
            guess = replace(guess, note=f"if in cents: =divide({guess.expression}, `100`)")
        elif has_word(field.words, MONEY) and isinstance(field.value, str) and re.fullmatch(r"-?\d+(\.\d+)?", text):
            guess = replace(guess, note=f"as a number: =to_number({guess.expression})")
        personal = _name_of_person(field, person)
        if personal in PERSONAL:
            of_person.setdefault(personal, guess)
        elif personal is None and (name := _name_of_event(field, event_type)):
            of_event.setdefault(name, guess)
    return of_person, of_event


def _name_of_person(field: Field, person: Mapping[str, Guess]) -> str | None:
    """Name a field as an attribute of the person; None: it is about something else."""
    name = SPELLINGS.get(field.names[-1], field.names[-1])
    for guess in person.values():
        if guess.holder is not None and field.names[: len(guess.holder)] == guess.holder:
            return name
        if guess.role and field.words[0] == guess.role and len(field.words) > 1:  # customer_name
            return "_".join(field.words[1:])
        # Beside an email of nobody in particular; but a name with digits is the number of an order.
        is_beside = guess.role is None and guess.reads[0][:-1] == field.path[:-1] and name in PERSONAL
        if is_beside and not (name == "name" and re.search("[0-9#]", str(field.value))):
            return name
    return None


def _name_of_event(field: Field, event_type: str | None) -> str | None:
    """Name a field as an attribute of the event; None: it is not worth keeping."""
    about, own = subject(event_type), field.words
    # What the event is about is not named again in its own attributes.
    others = [word for name in field.around if words(name) != about[-len(words(name)) :] for word in words(name)]
    if field.names[-1] == "id" and not others and about:
        return "_".join((*map(singular, about), "id"))
    is_kept = has_word(own, USEFUL) and len(field.around) < 2 and score(field, 100) and IDS.isdisjoint(own)
    return "_".join((*(word for word in others if word not in own), *own)) if is_kept else None
