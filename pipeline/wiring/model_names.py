"""Which models an endpoint has: one GET, outside of a run."""

from __future__ import annotations

from ..edges.chat import ChatClient
from ..nouns.address import Address
from ..nouns.errors import AnswerError
from ..rules import error_table, model_list

TIMEOUT_SECONDS = 20.0


async def fetch_models(address: Address, proxy: str | None = None) -> list[str]:
    """The names of the models at an endpoint, sorted; empty where it lists none.

    proxy: as for `ChatClient`. Raises AnswerError, without the key in its message, where it does not answer or refuses.
    """
    try:
        async with ChatClient(address, TIMEOUT_SECONDS, TIMEOUT_SECONDS, proxy=proxy) as client:
            answer = await client.get(address.models_url)
        if not 200 <= answer.status < 300:
            raise error_table.read_error(answer)
    except AnswerError as error:
        error.args = (address.scrub(str(error)),)
        raise
    return model_list.read_models(answer)
