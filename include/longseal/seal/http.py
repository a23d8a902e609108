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

    :param timeout: seconds for the whole exchange
    :param limit: most bytes of an answer
    :param error: raised for no answer, a late or too large one, or a status other than 2xx
    """
    status, answer = _exchange(url, body, content_type, timeout, limit, error)
    if not 200 <= status < 300:
        raise error(f"{url} answered {status}: {answer[:200]!r}")
    return answer


def get(url: str, *, timeout: float, limit: int, error: type[RetryableError]) -> bytes | None:
    """The answer's bytes; None where nothing is there (404). Parameters as of :func:`post`."""
    status, answer = _exchange(url, None, None, timeout, limit, error)
    if status == 404:
        return None
    if not 200 <= status < 300:
        raise error(f"{url} answered {status}: {answer[:200]!r}")
    return answer


def _exchange(
    url: str,
    body: bytes | None,
    content_type: str | None,
    timeout: float,
    limit: int,
    error: type[RetryableError],
) -> tuple[int, bytes]:
    """Redirects are not followed: what is trusted is the address in the settings."""
    import requests
    import urllib3

    deadline = time.monotonic() + timeout
    headers = {"Accept-Encoding": "identity"}
    if content_type is not None:
        headers["Content-Type"] = content_type
    try:
        with requests.request(
            "GET" if body is None else "POST",
            url,
            data=body,
            headers=headers,
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
            return response.status_code, bytes(answer)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as err:
        raise error(f"{url} did not answer: {type(err).__name__}") from err
