"""How long genuine senders wait for their answers while anybody attacks, beside a bare Flask `202` under attack.

    python -m bench.attacked [--seconds 10] [--rate 200] [--senders 32] [--postgresql URL]

The load is the steady one of `bench.acknowledge`: seven kinds of senders, so many webhooks a second. Beside it come

    slow bodies    1,000 connections announce a body of a megabyte and send none of it
    long headers   8 clients send 3.2 MB of headers, each once a second
    packed forms   22 forms a second (100 KB/s) of 4.6 KB that unpack to a megabyte, to a source that signs forms
    readyz         600 clients ask for /readyz, each once in two seconds
    malformed      400 requests a second that are no HTTP

999 of 1,000 answers have to come within 50 ms. The columns are those of `bench.acknowledge`; `flood` has the statuses
that the attack got, 0 for none. Attack, load and servers share the cores of the machine.
"""

from __future__ import annotations

from bench import acknowledge, harness
from bench.attacks import ATTACKS

LIMIT = 50.0  # milliseconds


def main() -> None:
    """Measure and print; the exit status says whether the limit is kept."""
    options = harness.options(__doc__, seconds=10.0, rate=200.0, senders=32)
    acknowledge.run(__file__, options, (acknowledge.STEADY, *ATTACKS), LIMIT)


if __name__ == "__main__":
    main()
