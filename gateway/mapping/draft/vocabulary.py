"""What the words in names mean to senders of webhooks, with weights where it matters: the larger, the likelier.

All are in lower case, and in the singular. No table is about one sender: a word means the same everywhere.
"""

from __future__ import annotations


def _set(names: str) -> frozenset[str]:
    return frozenset(names.split())


def _weights(names: dict[int, str]) -> dict[str, int]:
    return {name: weight for weight, told in names.items() for name in told.split()}


# People

#: What the person that an event is about is called; at the end who caused it, for where it says no better.
ROLES = _weights(
    {
        100: "customer",
        98: "subscriber contact identifier",
        96: "user enduser member lead invitee person consumer",
        92: "registrant attendee respondent requester recipient donor buyer payer purchaser shopper prospect"
        " participant signer",
        90: "student learner patient applicant candidate visitor guest",
        86: "profile player rider passenger supporter follower",
        84: "sender actor",
        60: "submitter reporter client author",
    }
)
#: Roles so plain that a field of just that name holds the person's id.
ALONE = _set("customer subscriber contact user member lead invitee donor player")
#: Roles that say how a person got into the event, so they go with any other one.
ANY_ROLE = _set("recipient profile person identifier")
#: Staff, senders and everybody else who is named in a payload, but is not the person.
STRANGERS = _set(
    "admin administrator agent staff employee operator teammate moderator bot assignee assigned owner host"
    " organizer organiser inviter creator membership merchant seller vendor supplier support pusher committer"
    " bcc cc reply authorization authed previous old by verification"
)
#: Many people, or none: what they have is of no one person.
ORGANISATIONS = _set(
    "shop store brand site app application workspace tenant team company business organization organisation"
    " group repository installation location domain"
)
#: What has ids and emails of its own, as no person has them.
THINGS = ORGANISATIONS | _set("account device commit card order invoice")
#: Between the parties of a message.
FROM, TO = _set("from sender return"), _set("to recipient rcpt")
INBOUND = _set("inbound received incoming")
OUTBOUND = _set("outbound sent delivered queued undelivered failed")

#: What an id is called.
IDS = _set("id ids uuid guid uid sid gid")
#: Words before "id" that do not say whose it is, and how much less likely it is than a bare id.
BARE_IDS = {(): 0, ("object",): 1, ("entity",): 1, ("record",): 1, ("resource",): 1, ("external",): 3}
ANONYMOUS_ID = ("anonymous", "id")
EMAIL_WORDS = _set("email emails mail emailaddress")
#: What else an email is called, where it looks like one.
ADDRESS_WORDS = _set("address handle login username contact answer value")
#: A field with such a word holds no address, even if it looks like one.
NOT_EMAIL = _set("id message subject body text html content url uri link name in key")
#: What stands around an email of the person without saying whose it is.
NEAR = _set("billing shipping detail details info receipt primary headers")
#: In a list of named values: what the name of a value is called.
TAGS = _set("type name key field label slug ref code question title")
PHONE_WORDS = _set("msisdn waid")
#: What only people have: an object with an email and one of these describes a person.
OF_PEOPLE = _set("first_name last_name firstname lastname username given_name full_name")
#: Where an object says what it is.
KINDS = _set("object type object_type record_type resource_type kind")

# The shape of a webhook

#: Objects that only wrap what an event is about.
WRAPPERS = _set(
    "data object payload item content contents detail details resource record attributes event event_data"
    " result response form_response entity model traits properties context hidden new current after message"
    " message_data merges merge_fields variables user_variables metadata custom_data fields body meta"
)
#: Those that stand for the object that they are in: ``member.current`` is a member.
SAME_AS_ABOVE = _set("current data attributes after new record object item")
#: Lists under such a name hold events, each of which is routed on its own.
BATCHES = ("events", "batch", "notifications", "records", "entries", "messages")
#: Where the type of an event stands.
TYPE_FIELDS = _weights(
    {
        100: "event_type",
        95: "event_name event",
        93: "topic notification_type webhook_topic hook_event_name",
        92: "record_type subscription_type",
        90: "type webhook_event webhook_type",
        80: "trigger trigger_event",
        75: "message_type alert_name",
        70: "action event_action scope",
        60: "kind metric",
        40: "message_status sms_status call_status",
    }
)
#: Fields that together say what happened: the nouns beside which a verb may stand.
TYPE_PAIRS = {
    "action": ("type", "object", "resource", "entity", "model", "event", "object_type", "resource_type"),
    "event": ("object", "resource", "model", "object_type"),
    "event_type": ("object_type", "resource_type"),
    "metric": ("object_type",),
    "type": ("table",),
}
#: Objects inside the body in which the type may stand.
TYPE_HOLDERS = _set("event event_data payload notification data meta")
#: A type of these words alone says only that there is an event.
SAYS_NOTHING = _set("event notification webhook callback hook message api")
#: What the id of the event itself is called.
KEY_FIELDS = _weights({100: "event_id", 98: "event_uuid", 95: "notification_id webhook_event_id", 60: "delivery_id"})
#: When it happened.
TIME_FIELDS = _weights(
    {
        100: "occurred_at",
        98: "event_time event_timestamp timestamp",
        96: "time ts_event",
        94: "ts fired_at triggered_at emitted_at submitted_at",
        89: "starred_at published_at paid_at completed_at",
        86: "updated_at date_modified_gmt",
        84: "created created_at date_created_gmt ts_epoch event_date",
        82: "sent_at delivered_at changed_at bounced_at",
        80: "received_at date_sent",
        78: "date_updated sent_at_date",
        76: "date_created s_epoch",
        70: "date",
    }
)
#: Where something else is dated, or nothing of this event.
NO_TIME = _set("signature previous period repository organization address click")

# Attributes

#: What is worth knowing about a person.
PERSONAL = _weights(
    {
        100: "first_name last_name name full_name",
        95: "phone phone_number company company_name job_title plan",
        90: "country country_code city locale language timezone time_zone",
        85: "username role birthday gender state region marketing_consent created_at signed_up_at"
        " accepts_marketing orders_count total_spent",
    }
)
#: What is a person's also where it only stands beside their email, in an object about something else.
BESIDE_AN_EMAIL = _set(
    "first_name last_name name full_name phone phone_number company job_title country country_code city locale"
    " language timezone time_zone gender"
)
#: The same under the names of lists and forms.
SPELLINGS = {
    **dict.fromkeys(("fname", "firstname", "given_name", "forename"), "first_name"),
    **dict.fromkeys(("lname", "lastname", "family_name", "surname"), "last_name"),
    "fullname": "full_name",
    "created": "created_at",
    "phonenumber": "phone",
}
#: Objects that describe the person wherever they stand.
TRAITS = _set("traits merges merge_fields")
#: Objects inside one that describes a person, which do so too.
ABOUT_A_PERSON = _set(
    "address default_address location location_data traits custom_attributes fields custom_fields profile merges"
    " merge_fields billing billing_details customer_details properties hidden user_variables"
)
#: What is worth knowing about an event.
USEFUL = _weights(
    {
        40: "total amount price revenue currency status plan",
        35: "title name subject product number quantity reason code",
        25: "score rating category coupon discount subtotal",
        20: "campaign interval count description label priority tax",
    }
)
#: Objects whose ids say something in a mail or in a report.
WANTED_IDS = _set(
    "order invoice subscription plan product price campaign list form ticket checkout payment charge template"
    " broadcast conversation transaction cart"
)
#: Never an attribute: what opens a door, and what says nothing to people.
SECRET = _set(
    "token secret signature password passwd passcode pwd key hash nonce csrf auth authorization credential session"
    " cookie otp pin jwt cvc cvv iban ssn fingerprint apikey digest multipass bearer"
)
IDLE = _set(
    "livemode etag graphql ip agent useragent avatar image photo icon logo thumbnail picture node self href uri api"
    " checksum version specversion anonymous offset smtp headers dns path raw browser encoded latitude longitude"
    " lat lng uuid sha ref datacontenttype webhook integration flag"
)
#: Addresses that a mail may lead to; others are for programs.
LINKS = _set(
    "hosted receipt invoice status checkout cancel reschedule tracking order html link join abandoned page pdf"
    " public landing original product"
)
#: What every object has, and no mail is ever about.
DULL = _set("created created_at updated updated_at modified_at deleted_at date_created")
#: A money field in whole numbers is often in the smallest unit of its currency.
MONEY = _set("amount total price subtotal tax discount fee balance cost revenue due paid refunded spent earnings")
#: What else is counted in whole numbers, whatever stands before it.
COUNTED = _set("count weight quantity item number page")
#: Names that end so hold a moment.
MOMENTS = _set("at date time timestamp on created updated gmt")
