"""A SoftHSM token with a P-256 key pair; needs Debian's softhsm2 and python-pkcs11, no Go."""

import os
import secrets
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tests.lab.processes import LabError
from tests.lab.tools import tool


@dataclass(frozen=True)
class Token:
    """A token on disk. The module finds it where `SOFTHSM2_CONF` points: see `environment`."""

    label: str
    key_label: str
    module: Path
    config: Path
    pin_file: Path
    public_pem: Path

    @property
    def uri(self) -> str:
        """The key's RFC 7512 URI, with the module's path and the file that holds the PIN."""
        return (
            f"pkcs11:token={quote(self.label)};object={quote(self.key_label)}"
            f"?module-path={self.module}&pin-source=file:{self.pin_file}"
        )

    @property
    def environment(self) -> dict[str, str]:
        return {"SOFTHSM2_CONF": str(self.config)}

    @property
    def pin(self) -> str:
        return self.pin_file.read_text()


def create_token(folder: Path, label: str = "longseal", key_label: str = "org") -> Token:
    """Make a token and a key pair that stays in it, in a process of its own.

    Tokens made in the same folder share one configuration, which this process must have in its
    environment before PKCS#11 is first used in it.

    :raises LabError: when SoftHSM is not installed, or refuses.
    """
    module = Path(tool("softhsm2"))
    (folder / "tokens").mkdir(parents=True, exist_ok=True)
    config = folder / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
    pin_file, public_pem = folder / f"{label}.pin", folder / f"{label}-{key_label}.pub"
    token = Token(label, key_label, module, config, pin_file, public_pem)
    token.pin_file.touch(mode=0o600)
    token.pin_file.write_text(secrets.token_hex(8))
    environment = os.environ | token.environment
    argv = ["softhsm2-util", "--init-token", "--free", "--label", label]
    argv += ["--so-pin", secrets.token_hex(8), "--pin", token.pin]
    key = [module, token.pin_file, label, key_label, token.public_pem]
    generate = [sys.executable, "-m", "tests.lab.softhsm", *map(str, key)]
    root = Path(__file__).parents[2]
    for step in (argv, generate):
        done = subprocess.run(step, env=environment, cwd=root, capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"{Path(step[0]).name} failed: {done.stderr[-1000:]}")
    return token


def _generate(module: str, pin_file: str, label: str, key_label: str, public_pem: str) -> None:
    import pkcs11
    from cryptography.hazmat.primitives import serialization
    from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters

    token = pkcs11.lib(module).get_token(token_label=label)
    with token.open(rw=True, user_pin=Path(pin_file).read_text()) as session:
        curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
        parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
        private = {pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False}
        public, _ = parameters.generate_keypair(
            store=True, label=key_label, id=key_label.encode(), private_template=private
        )
        key = serialization.load_der_public_key(encode_ec_public_key(public))
    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    Path(public_pem).write_bytes(pem)


if __name__ == "__main__":
    _generate(*sys.argv[1:])
