"""Where requests go and what they carry beside the question: address, key, further headers, query and body.

Keys come from environment variables only. Every text that is printed or stored passes through `Access.public`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import Template
from typing import Any
from urllib.parse import urlsplit

from reflectioncoder.config.build import ChatConfig, holds_key
from reflectioncoder.errors import UserError

SHORTEST_KEY = 6  # characters; a shorter key is not a secret, and removing it would garble messages
SHORTEST_KEY_IN_PATH = 20
# keys of a request that have a setting of their own, or that would change what an answer is
OWN_KEYS: Mapping[str, str] = {
    "model": "set chat.model", "messages": "the build writes it", "prompt": "the task writes it",
    "stream": "set chat.stream", "n": "each request asks for one answer", "tools": "set chat.protocol",
    "max_tokens": "set chat.max_tokens, or max_new_tokens of generate",
    "max_completion_tokens": "set chat.max_tokens and chat.token_limit_key",
}  # fmt: skip


@dataclass(frozen=True)
class Access:
    """What every request to a server carries, with the variables of the environment filled in.

    Args:
        key: API key; empty if its variable is not set.
        headers: further headers.
        query: further parameters of the URL.
        body: further keys of the request; None leaves a key out.
        secrets: texts that must not appear in a message.
    """

    key: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: Mapping[str, Any]
    secrets: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(cls, config: ChatConfig) -> Access:
        """Read the key and the named variables.

        Raises:
            UserError: a variable is not set, a header or parameter holds a key in plain text, or a key of the body has
                a setting of its own.
        """
        key = os.environ.get(config.api_key_variable, "").strip()
        headers, secret_headers = _filled(config.extra_headers, "chat.extra_headers")
        query, secret_query = _filled(config.extra_query, "chat.extra_query")
        for name in config.extra_body:
            if name in OWN_KEYS and config.extra_body[name] is not None:
                raise UserError(f"chat.extra_body: leave out '{name}': {OWN_KEYS[name]}")
        known = {text for text in (key, *secret_headers, *secret_query) if len(text) >= SHORTEST_KEY}
        return cls(key, headers, query, config.extra_body, tuple(sorted(known, key=len, reverse=True)))

    @property
    def own_credential(self) -> bool:
        """Whether the further headers or parameters authorize the requests."""
        return any(holds_key(name) for name in (*self.headers, *self.query))

    def public(self, text: str) -> str:
        """Replace keys in a message by asterisks."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def check_endpoint(config: ChatConfig, model: str) -> None:
    """Check the settings of a server before anything is written.

    Raises:
        UserError: no model is named, the URL is invalid, a limit is not positive, or see `Access.of`.
    """
    try:
        url = urlsplit(config.base_url)
        host, _ = url.hostname, url.port
    except ValueError:  # such as a port that is no number
        url, host = urlsplit(""), None
    if url.scheme not in ("http", "https") or not host:
        shown = f" = '{config.base_url}'" if len(config.base_url) < SHORTEST_KEY_IN_PATH else ""
        raise UserError(f"chat.base_url{shown}: expected http://HOST:PORT/v1 or https://HOST/v1")
    if not model:
        raise UserError("chat.model: name the model to ask")
    for name in ("in_flight", "timeout", "max_tokens"):
        if getattr(config, name) <= 0:
            raise UserError(f"chat.{name} = {getattr(config, name)}: give a number above 0")
    Access.of(config)


def shown_url(url: str) -> str:
    """A base URL for messages: parts of the path that look like a key are replaced by asterisks."""
    return "/".join("***" if _looks_secret(part) else part for part in url.split("/"))


def _looks_secret(part: str) -> bool:
    letters = re.sub(r"[^A-Za-z0-9]", "", part)
    changes = len(re.findall(r"(?<=[0-9])(?=[A-Za-z])|(?<=[A-Za-z])(?=[0-9])", letters))
    return "." not in part and len(letters) >= SHORTEST_KEY_IN_PATH and changes >= 4


def _filled(given: Mapping[str, str], where: str) -> tuple[dict[str, str], list[str]]:
    """Fill in the variables of the environment; return the values by name, and those that are secret."""
    values, secrets = {}, []
    for name, text in given.items():
        try:
            names = Template(text).get_identifiers()
            missing = [variable for variable in names if not os.environ.get(variable)]
            if missing:
                raise UserError(f"{where}: '{name}' needs the environment variable {missing[0]}, which is not set")
            value = Template(text).substitute(os.environ).strip()
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{where}: '{name}': write $NAME for a variable, and $$ for a dollar sign") from None
        if any(character < " " or character > "~" for character in f"{name}{value}") or not name.strip():
            raise UserError(f"{where}: '{name}': names and values may only have printable ASCII characters")
        values[name] = value
        secrets += [os.environ[variable].strip() for variable in names]
    return values, secrets
