"""What REST takes to end a sign-in of the command line."""

from msgspec import Struct


class ExchangeBody(Struct, frozen=True, kw_only=True, rename="camel"):
    machine_name: str
