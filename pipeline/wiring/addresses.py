"""Where a run sends its requests and where it is kept: from settings and the environment."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ..nouns.address import Address, chat_completions_url
from ..nouns.config import EndpointEntry, RunConfig
from ..nouns.errors import UsageError

DEFAULT_BASE_URL = "https://api.openai.com/v1"


def read_addresses(config: RunConfig) -> tuple[Address, ...]:
    """Address and key of each endpoint, from the settings and the environment.

    Raises UsageError if a key is missing or cannot be one, or an address is wrong.
    """
    entries = config.endpoints()
    addresses = [_read_address(entry) for entry in entries]
    names = [address.name for address in addresses]
    for number, (address, entry) in enumerate(zip(addresses, entries, strict=True)):
        if names.count(address.name) > 1:
            label = next(
                label
                for label in (entry.api_key_env, f"{entry.api_key_env}, {entry.model}", f"entry {number + 1}")
                if label not in {a.label for a in addresses[:number]}
            )
            addresses[number] = replace(address, label=label)
    return tuple(addresses)


def _read_address(entry: EndpointEntry) -> Address:
    base_url = entry.base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
    key = os.environ.get(entry.api_key_env, "").strip() or None
    address = Address(chat_completions_url(base_url), key)
    if key is None and not address.is_local:
        raise UsageError(
            f"no key: set the variable {entry.api_key_env} to the key for {address.name}"
            " (or name another variable with --api-key-env, or api_key_env in its [[endpoint]])"
        )
    if key is not None and not (key.isascii() and key.isprintable()):
        raise UsageError(
            f"the key in {entry.api_key_env} has characters that cannot be part of a key (only printable ASCII can)"
        )
    return address


def default_run_path(source: Path) -> Path:
    """The run folder of a source, in the working directory: photos/ -> photos-captions, data.csv -> data-captions.

    Raises UsageError if the path cannot be resolved.
    """
    try:
        path = source.resolve()
        return Path(f"{path.stem if path.is_file() else path.name}-captions")
    except (OSError, RuntimeError) as error:  # a name that is too long, a link to itself
        raise UsageError(f"{source}: cannot be read ({error})") from None
