"""The hosts and IP addresses from which images may be fetched.

Every address that is not clearly public is refused. Opens no socket.
"""

import ipaddress
import re
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# IANA's special-purpose registry for IPv4, multicast, class E, and one cloud's metadata service
# that lives on a public address (Azure's).
_CLOSED_4 = [
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
# All public addresses are here; outside are loopback, IPv4-mapped and -compatible, NAT64
# (64:ff9b::/96 and 64:ff9b:1::/48), local, link-local and multicast addresses ...
_OPEN_6 = ipaddress.IPv6Network("2000::/3")
# ... and these are inside: protocol assignments (Teredo, ORCHID), documentation, 6to4.
_CLOSED_6 = [
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
    )
]
# The interface identifiers of ISATAP, whose last four bytes are an IPv4 address.
_ISATAP = (0x00005EFE, 0x02005EFE)

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
# Texts that resolvers read as a number: "127.1", "0x7f.1", "017700000001".
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public internet, and not to a tunnel."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _CLOSED_4)
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return False
    return address in _OPEN_6 and not any(address in network for network in _CLOSED_6)


def parse_address(host: str) -> Address | None:
    """The address, if a host is written as one in canonical form; None for names."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_host(host: str) -> bool:
    """Whether this is a host name in lower case, or a canonical address without a zone.

    Numbers that a resolver would read as an address are neither.
    """
    if parse_address(host) is not None:
        return "%" not in host
    last = host.rpartition(".")[2]
    return len(host) <= 253 and _NAME.fullmatch(host) is not None and not _NUMBER.fullmatch(last)


def matches(host: str, patterns: Iterable[str]) -> bool:
    """Whether a host is in a list of names, `*.name` (hosts below a name) and `*` (all)."""
    return any(
        pattern == "*"
        or host == pattern
        or (pattern.startswith("*.") and host.endswith(pattern[1:]))
        for pattern in patterns
    )
