"""Reads a run directory's TensorBoard files with the real TensorBoard and compares them with the rest of the run.

    python check_tensorboard.py RUN_DIR      (needs: pip install tensorboard)

First through TensorBoard's EventAccumulator, then through a server started on a free port, once with each of its two
loaders. Curves must be those of metrics.jsonl, pictures those of samples/, the text that of config.toml, and the
HPARAMS tab must list the run with its settings.
"""

import json
import math
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.parse
import urllib.request

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as PluginAccumulator
from tensorboard.plugins.hparams import metadata as hparams_metadata

CURVES = {
    "train/loss": "loss",
    "train/grad_norm": "grad_norm",
    "train/lr": "lr",
    "train/caption_tokens_cut": "caption_tokens_cut",
    "progress/epoch": "epoch",
    "progress/samples_seen": "samples_seen",
    "progress/tokens_seen": "tokens_seen",
    "progress/flops": "flops",
    "speed/images_per_s": "images_per_s",
    "speed/step_s": "step_s",
    "speed/data_wait_s": "data_wait_s",
    "speed/save_stall_s": "save_stall_s",
    "speed/goodput": "goodput",
}
SECONDS_TO_LOAD = 60


def expect(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: got {got!r}, wanted {wanted!r}")


def same_number(a, b):
    """Curves are f32; a number that is not finite is null in metrics.jsonl."""
    return not math.isfinite(a) if b is None else math.isclose(a, b, rel_tol=1e-6)


def png_size(data):
    expect("PNG signature", data[:8], b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", data[16:24])


def leaves(value, key=""):
    """The dotted keys of a config, as the run names its hparams."""
    if isinstance(value, dict):
        return {k: v for name, v in value.items() for k, v in leaves(v, f"{key}.{name}" if key else name).items()}
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return {k: v for i, v in enumerate(value) for k, v in leaves(v, f"{key}.{i}").items()}
    return {key: value}


def check_files(run, records, config_text, hparams):
    folder = str(run / "tensorboard")
    board = EventAccumulator(folder, size_guidance={"scalars": 0, "images": 0})
    board.Reload()
    for tag, key in CURVES.items():
        events = board.Scalars(tag)
        expect(f"steps of {tag}", [e.step for e in events], [r["step"] for r in records])
        for event, record in zip(events, records):
            if not same_number(event.value, record[key]):
                sys.exit(f"{tag} at step {event.step}: got {event.value}, wanted {record[key]}")

    evaluated = [r for r in records if r["val_loss"] is not None]
    if evaluated:
        events = board.Scalars("validation/loss")
        expect("steps of validation/loss", [e.step for e in events], [r["step"] for r in evaluated])
        for event, record in zip(events, evaluated):
            if not same_number(event.value, record["val_loss"]):
                sys.exit(f"validation/loss at step {event.step}: got {event.value}, wanted {record['val_loss']}")

    pictures = {int(p.stem.removeprefix("step-")): p.read_bytes() for p in (run / "samples").glob("step-*.png")}
    last = records[-1]["step"] if records else 0
    pictures = {step: data for step, data in pictures.items() if step <= last}
    for tag in board.Tags()["images"]:
        for event in board.Images(tag):
            expect(f"size of {tag} at step {event.step}", (event.width, event.height), png_size(event.encoded_image_string))
            if event.step in pictures:
                expect(f"{tag} at step {event.step}", event.encoded_image_string, pictures.pop(event.step))
    expect("sample grids that TensorBoard lacks", sorted(pictures), [])

    plugins = PluginAccumulator(folder)
    plugins.Reload()
    (text,) = plugins.Tensors("config")
    (text,) = text.tensor_proto.string_val
    block = re.fullmatch(r"(`{3,})toml\n(.*)\n\1\n", text.decode(), re.DOTALL)
    expect("the config text", tomllib.loads(block[2]), tomllib.loads(config_text))
    content = plugins.PluginTagToContent(hparams_metadata.PLUGIN_NAME)
    start = hparams_metadata.parse_session_start_info_plugin_data(content[hparams_metadata.SESSION_START_INFO_TAG])
    expect("keys of the hparams", sorted(start.hparams), sorted(hparams))
    for key, value in hparams.items():
        told = start.hparams[key]
        got = getattr(told, told.WhichOneof("kind"))
        if not isinstance(value, list):
            expect(f"hparam {key}", got, value)


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def check_server(run, records, hparams, load_fast):
    log = tempfile.NamedTemporaryFile("w+", suffix=".log")
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run), "--port", "0", "--load_fast", load_fast]
    # Its loader looks for newer files only this often.
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        base, groups = None, []
        for _ in range(SECONDS_TO_LOAD):
            time.sleep(1)
            found = re.search(r"http://[^ ]+", pathlib.Path(log.name).read_text())
            if found:
                base = found[0].rstrip("/") + "/data/plugin"
                status = ["STATUS_SUCCESS", "STATUS_UNKNOWN", "STATUS_FAILURE", "STATUS_RUNNING"]
                query = {"experimentName": "", "allowedStatuses": status, "colParams": [], "startIndex": 0, "sliceSize": 9}
                groups = ask(f"{base}/hparams/session_groups", query).get("sessionGroups", [])
                if groups and "train/loss" in ask(f"{base}/scalars/tags").get("tensorboard", {}):
                    break
        else:
            sys.exit(f"tensorboard --load_fast {load_fast} does not show the run:\n{pathlib.Path(log.name).read_text()}")
        expect("keys on the HPARAMS tab", sorted(groups[0]["hparams"]), sorted(hparams))
        where = urllib.parse.urlencode({"run": "tensorboard", "tag": "train/loss"})
        curve = ask(f"{base}/scalars/scalars?{where}")
        expect("steps of the served loss", [point[1] for point in curve], [r["step"] for r in records])
        expect("served texts", ask(f"{base}/text/tags"), {"tensorboard": ["config"]})
        where = urllib.parse.urlencode({"run": "tensorboard", "tag": "config"})
        html = ask(f"{base}/text/text?{where}")[0]["text"]
        expect("the config is shown as code", "<code" in html, True)
        images = ask(f"{base}/images/tags").get("tensorboard", {})
        if any((run / "samples").glob("step-*.png")):
            expect("served pictures", bool(images), True)
    finally:
        server.terminate()
        server.wait()


def main():
    run = pathlib.Path(sys.argv[1])
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    config_text = (run / "config.toml").read_text()
    hparams = leaves(tomllib.loads(config_text))
    check_files(run, records, config_text, hparams)
    for load_fast in ("true", "false"):
        check_server(run, records, hparams, load_fast)
    print(f"tensorboard shows {len(records)} steps, the pictures, the config and {len(hparams)} hparams of {run}")


if __name__ == "__main__":
    main()
