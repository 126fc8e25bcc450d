//! What some bytes are, from how they start.

/// A format that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    Webp,
    Gif,
}

impl Format {
    /// The format, or what the bytes seem to be instead.
    pub fn of(bytes: &[u8]) -> Result<Self, String> {
        match bytes {
            [0xff, 0xd8, 0xff, ..] => Ok(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Ok(Self::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(Self::Webp),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok(Self::Gif),
            _ => Err(format!("is {}, not a JPEG, PNG, WebP or GIF picture", seeming(bytes))),
        }
    }
}

fn seeming(bytes: &[u8]) -> &'static str {
    let starts = |with: &[u8]| bytes.starts_with(with);
    if bytes.is_empty() {
        return "empty";
    }
    if let Some(brand) = bytes
        .strip_prefix(&bytes[..4.min(bytes.len())])
        .filter(|rest| rest.starts_with(b"ftyp"))
    {
        return match brand.get(4..8) {
            Some(b"avif" | b"avis") => "AVIF",
            Some(b"heic" | b"heix" | b"hevc" | b"mif1" | b"msf1") => "HEIF",
            _ => "a video or HEIF",
        };
    }
    let known: [(&[u8], &str); 12] = [
        (b"BM", "BMP"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
        (b"\0\0\0\x0cjP  ", "JPEG 2000"),
        (b"\xff\x4f\xff\x51", "JPEG 2000"),
        (b"8BPS", "a Photoshop file"),
        (b"%PDF", "PDF"),
        (b"\0\0\x01\0", "an icon"),
        (b"\x1f\x8b", "gzip"),
        (b"PK\x03\x04", "a zip archive"),
    ];
    if let Some((_, name)) = known.iter().find(|(magic, _)| starts(magic)) {
        return name;
    }
    let head = String::from_utf8_lossy(&bytes[..bytes.len().min(256)]).to_ascii_lowercase();
    let text = head.trim_start();
    if text.starts_with("<!doctype html") || text.starts_with("<html") {
        "a web page"
    } else if text.contains("<svg") {
        "SVG"
    } else if bytes
        .iter()
        .take(256)
        .all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace())
    {
        "text"
    } else {
        "of an unknown format"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_read_is_named() {
        for (bytes, name) in [
            (&b""[..], "empty"),
            (b"\0\0\0\x1cftypavif\0\0", "AVIF"),
            (b"\0\0\0\x18ftypheic\0\0", "HEIF"),
            (b"II*\0\x08\0", "TIFF"),
            (b"BM6\0", "BMP"),
            (b" <!DOCTYPE html><title>404", "a web page"),
            (b"<?xml version='1.0'?><svg>", "SVG"),
            (b"hello", "text"),
            (b"\x01\x02\x03", "unknown"),
            (b"GIF90a", "text"),
        ] {
            let message = Format::of(bytes).err().unwrap_or_default();
            assert!(
                message.contains(name) && message.contains("not a JPEG"),
                "{name}: {message}"
            );
        }
        assert_eq!(Format::of(b"GIF89a.."), Ok(Format::Gif));
    }
}
