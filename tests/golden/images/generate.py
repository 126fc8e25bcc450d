"""Small encoded pictures of every kind that is read, and their pixels as Pillow decodes them.

    pip install pillow numpy
    python tests/golden/images/generate.py

Writes NAME.EXT and, beside it, NAME.EXT.rgb.png: the pixels upright (EXIF), as RGB, alpha over white. Pillow writes no
16-bit colour, no interlacing and few bit depths, so PNGs are written here by hand and their pixels are known without a
decoder; where Pillow reads them exactly, that is checked. crop-*.png are Pillow's `resize(.., LANCZOS, box=..)`.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageDraw, ImageOps

OUT = Path(__file__).parent
WIDTH, HEIGHT = 29, 23


def picture(width=WIDTH, height=HEIGHT):
    """Slopes, edges and a little noise, in RGB."""
    y, x = np.mgrid[0:height, 0:width] / (height, width)[0]
    rng = np.random.default_rng(7)
    pixels = np.stack([250 * x / x.max(), 220 * y + 20, 128 + 100 * np.sin(5 * x - 3 * y)], -1)
    canvas = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    draw.ellipse((width * 0.1, height * 0.15, width * 0.5, height * 0.7), fill=(220, 40, 60))
    draw.rectangle((width * 0.6, height * 0.5, width * 0.85, height * 0.9), fill=(20, 60, 200))
    noise = rng.normal(0, 2, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(canvas) + noise, 0, 255).astype(np.uint8))


def alpha(width=WIDTH, height=HEIGHT):
    """From clear to opaque, both there."""
    ramp = np.clip(np.linspace(-40, 300, width)[None, :] + np.linspace(-20, 20, height)[:, None], 0, 255)
    return Image.fromarray(ramp.astype(np.uint8))


def over_white(image):
    image = ImageOps.exif_transpose(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        white.paste(rgba.convert("RGB"), mask=rgba.getchannel("A"))
        return white
    return image.convert("RGB")


def keep(name, encoded, expected=None):
    (OUT / name).write_bytes(encoded)
    expected = over_white(Image.open(io.BytesIO(encoded))) if expected is None else expected
    expected.save(OUT / f"{name}.rgb.png", optimize=True)


def encoded(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def jpegs():
    rgb = picture()
    for name in ("4:2:0", "4:2:2", "4:4:4"):
        keep(f"jpeg-{name.replace(':', '')}.jpg", encoded(rgb, "JPEG", quality=88, subsampling=name))
    keep("jpeg-progressive.jpg", encoded(rgb, "JPEG", quality=88, progressive=True))
    keep("jpeg-progressive-444.jpg", encoded(rgb, "JPEG", quality=88, progressive=True, subsampling="4:4:4"))
    keep("jpeg-restart.jpg", encoded(rgb, "JPEG", quality=88, restart_marker_blocks=2))
    keep("jpeg-rgb.jpg", encoded(rgb, "JPEG", quality=88, keep_rgb=True))
    keep("jpeg-grey.jpg", encoded(rgb.convert("L"), "JPEG", quality=88))
    keep("jpeg-grey-progressive.jpg", encoded(rgb.convert("L"), "JPEG", quality=88, progressive=True))
    keep("jpeg-narrow.jpg", encoded(picture(5, 19), "JPEG", quality=92))
    # Ink of every kind: black where the picture is dark.
    key = Image.fromarray(255 - np.asarray(rgb).max(-1))
    cmyk = Image.merge("CMYK", [*ImageOps.invert(rgb).split(), key])
    cmyk = encoded(cmyk, "JPEG", quality=92)
    keep("jpeg-cmyk.jpg", cmyk)
    # The same samples declared YCCK: another picture, which Pillow decodes too.
    flag = cmyk.index(b"Adobe") + 11
    assert cmyk[flag] == 0
    keep("jpeg-ycck.jpg", cmyk[:flag] + b"\2" + cmyk[flag + 1 :])
    for value in range(1, 9):
        turned = encoded(picture(24, 16), "JPEG", quality=90, subsampling="4:4:4", exif=orientation(value))
        keep(f"jpeg-exif-{value}.jpg", turned)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def packed(rows, depth):
    """Samples [rows, values] as PNG scanlines without a filter."""
    if depth == 16:
        lines = rows.astype(">u2").view(np.uint8)
    elif depth == 8:
        lines = rows.astype(np.uint8)
    else:
        bits = (rows[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        lines = np.packbits(bits.reshape(rows.shape[0], -1).astype(np.uint8), axis=1)
    return b"".join(b"\0" + line.tobytes() for line in lines)


def png(samples, depth, colour, interlaced=False, extra=b""):
    """A PNG of samples [height, width, channels]."""
    height, width, _ = samples.shape
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = [samples[y::dy, x::dx] for y, x, dy, dx in passes]
    data = b"".join(packed(part.reshape(part.shape[0], -1), depth) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def keep_png(name, samples, depth, colour, rgb, opacity=None, pillow=True, **options):
    """`rgb` in 0 to 1; `opacity` too."""
    file = png(samples, depth, colour, **options)
    rgb = np.rint(np.broadcast_to(rgb, samples.shape[:2] + (3,)) * 255)
    if opacity is not None:
        opacity = np.rint(opacity[..., None] * 255)
        rgb = np.floor((rgb * opacity + 255 * (255 - opacity) + 127) / 255)
    expected = Image.fromarray(rgb.astype(np.uint8))
    if pillow:
        seen = np.asarray(over_white(Image.open(io.BytesIO(file))), int)
        assert np.abs(seen - rgb).max() == 0, (name, np.abs(seen - rgb).max())
    keep(name, file, expected)


def pngs():
    rgb = np.asarray(picture(), float) / 255
    grey = rgb.mean(-1, keepdims=True)
    opacity = np.asarray(alpha(), float)[..., None] / 255
    quantised = lambda values, depth: np.rint(values * (2**depth - 1)).astype(int)
    for depth in (1, 2, 4, 8, 16):
        samples = quantised(grey, depth)
        # Pillow's 16-bit grey becomes RGB by clipping.
        keep_png(f"png-grey-{depth}.png", samples, depth, 0, samples / (2**depth - 1), pillow=depth < 16)
    for depth in (8, 16):
        # Of 16 bits Pillow takes the upper 8.
        top, exact = 2**depth - 1, depth == 8
        samples = quantised(rgb, depth)
        keep_png(f"png-rgb-{depth}.png", samples, depth, 2, samples / top, pillow=exact)
        keep_png(f"png-rgb-{depth}-interlaced.png", samples, depth, 2, samples / top, pillow=exact, interlaced=True)
        ga = quantised(np.concatenate([grey, opacity], -1), depth)
        keep_png(f"png-grey-alpha-{depth}.png", ga, depth, 4, ga[..., :1] / top, ga[..., 1] / top, pillow=exact)
        rgba = quantised(np.concatenate([rgb, opacity], -1), depth)
        keep_png(f"png-rgba-{depth}.png", rgba, depth, 6, rgba[..., :3] / top, rgba[..., 3] / top, pillow=exact)
    for depth in (1, 2, 4, 8):
        colours = min(2**depth, 32)
        index = np.minimum((grey * colours).astype(int), colours - 1)
        palette = np.random.default_rng(depth).integers(0, 256, (colours, 3))
        plte = chunk(b"PLTE", palette.astype(np.uint8).tobytes())
        keep_png(f"png-palette-{depth}.png", index, depth, 3, palette[index[..., 0]] / 255, extra=plte)
        if depth in (4, 8):
            opacities = np.array([255, 0, 100, 200])
            full = np.concatenate([opacities, np.full(colours - 4, 255)])
            trns = plte + chunk(b"tRNS", opacities.astype(np.uint8).tobytes())
            name, shown = f"png-palette-{depth}-trns.png", palette[index[..., 0]] / 255
            keep_png(name, index, depth, 3, shown, full[index[..., 0]] / 255, extra=trns)
    samples = quantised(rgb, 8)
    clear = tuple(int(value) for value in samples[10, 12])
    trns = chunk(b"tRNS", struct.pack(">HHH", *clear))
    keep_png("png-rgb-8-trns.png", samples, 8, 2, samples / 255, 1.0 - (samples == clear).all(-1), extra=trns)
    samples = quantised(grey, 4)
    trns = chunk(b"tRNS", struct.pack(">H", 9))
    # Pillow compares the value with samples that it has already widened to 8 bits.
    keep_png("png-grey-4-trns.png", samples, 4, 0, samples / 15, 1.0 - (samples[..., 0] == 9), extra=trns, pillow=False)
    keep("png-exif-6.png", encoded(picture(24, 16), "PNG", exif=orientation(6)))


def others():
    rgb, rgba = picture(), picture()
    rgba.putalpha(alpha())
    keep("webp-lossy.webp", encoded(rgb, "WEBP", quality=85))
    keep("webp-lossless.webp", encoded(rgb, "WEBP", lossless=True))
    keep("webp-lossy-alpha.webp", encoded(rgba, "WEBP", quality=85))
    keep("webp-lossless-alpha.webp", encoded(rgba, "WEBP", lossless=True))
    second = ImageOps.invert(rgb)
    keep("webp-animated.webp", encoded(rgb, "WEBP", save_all=True, append_images=[second], lossless=True))
    keep("webp-exif-8.webp", encoded(picture(24, 16), "WEBP", lossless=True, exif=orientation(8)))
    keep("gif.gif", encoded(rgb.quantize(32), "GIF"))
    keep("gif-animated.gif", encoded(rgb.quantize(16), "GIF", save_all=True, append_images=[second.quantize(16)]))
    index = rgb.quantize(16)
    keep("gif-transparent.gif", encoded(index, "GIF", transparency=index.getpixel((12, 10))))


def crops():
    image = picture(80, 60)
    image.save(OUT / "crop.png", optimize=True)
    for name, size, box in (
        ("square", (24, 24), (10, 0, 70, 60)),
        ("wide", (36, 18), (0, 10, 80, 50)),
        ("tall", (16, 32), (25, 0, 55, 60)),
        ("larger", (75, 75), (10, 0, 70, 60)),
    ):
        image.resize(size, Image.LANCZOS, box=box).save(OUT / f"crop-{name}.png", optimize=True)


for old in OUT.iterdir():
    if old.suffix in (".png", ".jpg", ".webp", ".gif"):
        old.unlink()
jpegs()
pngs()
others()
crops()
files = [file for file in OUT.iterdir() if file.suffix != ".py"]
print(f"Pillow {PIL.__version__}: {len(files)} files, {sum(file.stat().st_size for file in files)} bytes")
