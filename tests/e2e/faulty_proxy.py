"""A proxy in front of an S3 server that makes every kind of trouble a network makes, by a seeded schedule.

    python faulty_proxy.py UPSTREAM_PORT      (needs nothing but Python)

Prints its own port. What it does depends on the bucket, the first part of the path: of `faulty` every third request or
so is answered with 500 or 503, late, in part, or not at all; of `down` every one with 503; any other is passed on.
`GET /__requests` gives the number of requests since it was last asked, by bucket. Ends when its input does.
"""

import collections
import http.client
import http.server
import json
import random
import sys
import threading
import time

UPSTREAM = int(sys.argv[1])
TROUBLES = ["500", "503", "429", "late", "cut", "none", "close"]


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    lock = threading.Lock()
    schedule = random.Random(4)
    requests = collections.Counter()

    def log_message(self, *_):
        pass

    def trouble(self, bucket):
        with self.lock:
            self.requests[bucket] += 1
            if bucket == "down":
                return "503"
            if bucket == "faulty" and self.schedule.random() < 0.35:
                return self.schedule.choice(TROUBLES)
        return None

    def answer(self):
        bucket = self.path.split("?")[0].strip("/").split("/")[0]
        if bucket == "__requests":
            with self.lock:
                body = json.dumps(self.requests).encode()
                self.requests.clear()
            return self.send(200, {}, body)
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        # Uploads are the test's own and have no retries.
        trouble = self.trouble(bucket) if self.command in ("GET", "HEAD") else None
        if trouble in ("500", "503", "429"):
            return self.send(int(trouble), {}, b"<Error><Code>SlowDown</Code><Message>no luck today</Message></Error>")
        if trouble == "close":
            self.close_connection = True
            return None
        if trouble == "late":
            time.sleep(0.3)
        upstream = http.client.HTTPConnection("127.0.0.1", UPSTREAM, timeout=60)
        upstream.request(self.command, self.path, body=content, headers=dict(self.headers))
        response = upstream.getresponse()
        body = response.read()
        headers = {k: v for k, v in response.getheaders() if k.lower() not in ("connection", "transfer-encoding")}
        sent = {"cut": len(body) // 2, "none": 0}.get(trouble, len(body))
        return self.send(response.status, headers, body, sent)

    def send(self, status, headers, body, sent=None):
        self.send_response(status)
        given = {k.lower() for k in headers}
        for key, value in headers.items():
            self.send_header(key, value)
        if "content-length" not in given:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])
        if sent is not None and sent < len(body):
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_):
        # A client that gave up.
        pass


server = Server(("127.0.0.1", 0), Proxy)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
