"""One bounded HTTP request to a service that a seal needs."""

from __future__ import annotations

import time

from longseal.errors import RetryableError


def post(
    url: str,
    body: bytes,
    content_type: str,
    *,
    timeout: float,
    limit: int,
    error: type[RetryableError],
) -> bytes:
    """POST ``body`` and return the answer's bytes.

    Redirects are not followed: what is trusted is the address in the settings.

    :param timeout: seconds for the whole exchange
    :param limit: most bytes of an answer
    :param error: raised for no answer, a late or too large one, or a status other than 2xx
    """
    import requests
    import urllib3

    deadline = time.monotonic() + timeout
    try:
        with requests.post(
            url,
            data=body,
            headers={"Content-Type": content_type, "Accept-Encoding": "identity"},
            timeout=timeout,
            allow_redirects=False,
            stream=True,
        ) as response:
            answer = bytearray()
            # What has come, and not a full buffer: else one byte at a time outlasts any deadline.
            while chunk := response.raw.read1(8192):
                answer += chunk
                if len(answer) > limit:
                    raise error(f"{url} answered with more than {limit} bytes")
                if time.monotonic() > deadline:
                    raise error(f"{url} did not finish its answer in {timeout:g} s")
            if not 200 <= response.status_code < 300:
                raise error(f"{url} answered {response.status_code}: {bytes(answer[:200])!r}")
            return bytes(answer)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as err:
        raise error(f"{url} did not answer: {type(err).__name__}") from err
