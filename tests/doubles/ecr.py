"""A double of the one call of AWS ECR's own API that a login needs: ``GetAuthorizationToken``."""

import base64
import json

from tests.doubles.server import LoopbackServer, QuietHandler


class EcrTokenServiceDouble(LoopbackServer):
    """Gives tokens for the user ``AWS``, a new one on each call."""

    def __init__(self) -> None:
        self.given: list[str] = []
        double = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                wanted = self.headers["X-Amz-Target"].rpartition(".")[2]
                signed = self.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256")
                if wanted != "GetAuthorizationToken" or not signed:
                    self.send_error(400)
                    return
                double.given.append(f"password-{len(double.given)}")
                token = base64.b64encode(f"AWS:{double.given[-1]}".encode()).decode()
                body = json.dumps({"authorizationData": [{"authorizationToken": token}]}).encode()
                self.respond(200, body, "application/x-amz-json-1.1")

        super().__init__(Handler)
