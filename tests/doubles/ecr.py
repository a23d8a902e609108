"""A double of the one call of AWS ECR's own API that a login needs: ``GetAuthorizationToken``."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self


class EcrTokenServiceDouble:
    """Gives tokens for the user ``AWS``, a new one on each call."""

    def __init__(self) -> None:
        self.given: list[str] = []
        double = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

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
                self.send_response(200)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
