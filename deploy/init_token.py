"""Make the token and the organisation's key, unless they are there.

``init_token.py MODULE TOKEN KEY``; the PINs come from ``LONGSEAL_PIN`` and ``LONGSEAL_SO_PIN``, and
``SOFTHSM2_CONF`` says where tokens are kept. The key is P-256 and never leaves the token.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pkcs11
from pkcs11.util.ec import encode_named_curve_parameters


def run(*arguments: str) -> str:
    """What ``softhsm2-util`` prints; its errors go to standard error."""
    command = ["softhsm2-util", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"softhsm2-util {arguments[0]} failed")
    return done.stdout


def labels(slots: str) -> set[str]:
    """The labels in what ``--show-slots`` prints."""
    return {line.partition(":")[2].strip() for line in slots.splitlines() if "Label:" in line}


def main(module: str, token_label: str, key_label: str) -> None:
    pin = os.environ["LONGSEAL_PIN"]
    # A loaded module may not see a token that another process makes: look and make before loading.
    if token_label not in labels(run("--show-slots")):
        new = ["--init-token", "--free", "--label", token_label]
        run(*new, "--pin", pin, "--so-pin", os.environ["LONGSEAL_SO_PIN"])
    token = pkcs11.lib(module).get_token(token_label=token_label)
    with token.open(rw=True, user_pin=pin) as session:
        wanted = {
            pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY,
            pkcs11.Attribute.LABEL: key_label,
        }
        if any(True for _ in session.get_objects(wanted)):
            return
        curve = session.create_domain_parameters(
            pkcs11.KeyType.EC,
            {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")},
            local=True,
        )
        curve.generate_keypair(
            store=True,
            label=key_label,
            id=key_label.encode(),
            capabilities=pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
            private_template={
                pkcs11.Attribute.SENSITIVE: True,
                pkcs11.Attribute.EXTRACTABLE: False,
            },
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
