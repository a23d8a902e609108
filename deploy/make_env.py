"""Write ``.env``, the secrets of ``docker-compose.yaml``: ``make_env.py [FILE]``.

Every value is random, so there is no default password to forget. A file that is there is kept: the
databases and the token know its secrets already.
"""

from __future__ import annotations

import base64
import os
import secrets
import sys
from pathlib import Path


def values() -> dict[str, str]:
    """New secrets. Most stand in URLs, so they are hex; a PIN is what most tokens take."""
    return {
        "AIRFLOW_ADMIN_PASSWORD": secrets.token_urlsafe(18),
        "AIRFLOW_API_SECRET_KEY": secrets.token_hex(32),
        "AIRFLOW_DB_PASSWORD": secrets.token_hex(24),
        "AIRFLOW_FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW_JWT_SECRET": secrets.token_hex(64),
        "LONGSEAL_DB_PASSWORD": secrets.token_hex(24),
        "LONGSEAL_PIN": secrets.token_hex(8),
        "LONGSEAL_SO_PIN": secrets.token_hex(8),
        "REDIS_PASSWORD": secrets.token_hex(24),
        "S3_ACCESS_KEY": secrets.token_hex(10),
        "S3_SECRET_KEY": secrets.token_hex(24),
    }


def main(path: Path) -> int:
    text = "".join(f"{name}={value}\n" for name, value in values().items())
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        sys.stderr.write(f"{path} is there already and was kept; remove it to get new secrets\n")
        return 1
    with os.fdopen(handle, "w") as file:
        file.write(text)
    sys.stdout.write(f"wrote {path}; Airflow's user is admin, with AIRFLOW_ADMIN_PASSWORD\n")
    return 0


if __name__ == "__main__":
    default = Path(__file__).resolve().parents[1] / ".env"
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else default))
