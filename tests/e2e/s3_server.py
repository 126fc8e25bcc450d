"""An S3 server on a free port of this machine: moto's, with buckets filled from folders.

    python s3_server.py BUCKET=FOLDER...      (needs: pip install 'moto[server]' boto3)

Prints its port when the buckets are filled. Objects are readable without a signature too.
"""

import pathlib
import sys

import boto3
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
port = server.get_host_and_port()[1]
s3 = boto3.client(
    "s3",
    endpoint_url=f"http://127.0.0.1:{port}",
    region_name="us-east-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",
)
for argument in sys.argv[1:]:
    bucket, folder = argument.split("=", 1)
    s3.create_bucket(Bucket=bucket, ACL="public-read")
    for file in sorted(pathlib.Path(folder).rglob("*")):
        if file.is_file():
            key = file.relative_to(folder).as_posix()
            s3.put_object(Bucket=bucket, Key=key, Body=file.read_bytes(), ACL="public-read")
print(port, flush=True)
# Until the test closes its end.
sys.stdin.read()
server.stop()
