from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.chain import Chain, chain_of

from longseal.seal.signers.file import FileSigner


@pytest.fixture
def signer(tmp_path: Path) -> FileSigner:
    return FileSigner.create(tmp_path / "org.pem")


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Thirty months of seals; a test that writes copies what it writes to."""
    with chain_of(tmp_path_factory.mktemp("chain")) as made:
        yield made
