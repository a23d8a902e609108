from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from tests.doubles.ecr import EcrTokenServiceDouble
from tests.doubles.registry import RegistryDouble, Start

from longseal.errors import RegistryError
from longseal.registry.auth import Credentials
from longseal.registry.distribution import DistributionRegistry

LOGIN = Credentials("ci", "secret-word")
ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"


def test_threads_whose_token_expired_fetch_one_new_one(start: Start) -> None:
    server, registry = start(bearer=("ci", "secret-word"), client={"credentials": LOGIN})
    server.add_image("corp/app", "v1")
    together = Barrier(16)

    def ask(_: int) -> tuple[str, ...]:
        together.wait()
        return registry.tags("corp/app")

    with ThreadPoolExecutor(16) as pool:
        for renewals in range(1, 4):
            assert set(pool.map(ask, range(16))) == {("v1",)}
            assert server.count("GET", "/token") == renewals
            server.tokens.clear()


def test_a_token_that_is_refused_at_once_is_renewed_once_and_no_more(start: Start) -> None:
    server, registry = start(bearer=("ci", "secret-word"), client={"credentials": LOGIN})
    server.quirks.token_lifetime = -1
    with pytest.raises(RegistryError, match="401"):
        registry.tags("corp/app")
    assert server.count("GET", "/token") == 1


@pytest.fixture
def ecr(monkeypatch: pytest.MonkeyPatch) -> Iterator[EcrTokenServiceDouble]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "lab")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "lab")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with EcrTokenServiceDouble() as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", service.url)
        yield service


def elastic(
    start: Start, credentials: Credentials | None = None
) -> tuple[RegistryDouble, DistributionRegistry]:
    """A registry that answers for a host of ECR."""
    server, _ = start(
        basic=("AWS", "password-0"),
        basic_challenge=f'Basic realm="https://{ECR}/",service="ecr.amazonaws.com"',
    )
    server.add_image("corp/app", "v1")
    return server, DistributionRegistry(
        "main", f"http://{ECR}", proxy=server.url, credentials=credentials
    )


def test_ecr_is_met_with_a_token_of_aws(start: Start, ecr: EcrTokenServiceDouble) -> None:
    server, registry = elastic(start)
    for _ in range(3):
        assert registry.tags("corp/app") == ("v1",)
    assert ecr.given == ["password-0"]
    server.quirks.basic = ("AWS", "password-1")
    assert registry.tags("corp/app") == ("v1",)
    assert len(ecr.given) == 2


def test_a_login_that_was_given_goes_before_aws(start: Start, ecr: EcrTokenServiceDouble) -> None:
    _, registry = elastic(start, Credentials("AWS", "password-0"))
    assert registry.tags("corp/app") == ("v1",)
    assert not ecr.given


def test_aws_giving_no_token_is_an_error_that_shows_no_secret(
    start: Start, ecr: EcrTokenServiceDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", "http://127.0.0.1:1")
    _, registry = elastic(start)
    with pytest.raises(RegistryError, match="AWS gave no token") as caught:
        registry.tags("corp/app")
    assert "lab" not in str(caught.value)
