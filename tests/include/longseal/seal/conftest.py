from pathlib import Path

import pytest

from longseal.seal.signers.file import FileSigner


@pytest.fixture
def signer(tmp_path: Path) -> FileSigner:
    return FileSigner.create(tmp_path / "org.pem")
