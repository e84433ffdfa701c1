//! Bodies as they are packed for the way (RFC 9110 §8.4). We ask for none of it, and some servers do it all the same.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use reqwest::header::{CONTENT_ENCODING, HeaderMap};
use zeroize::Zeroizing;

const GZIP_MAGIC: [u8; 2] = [0x1F, 0x8B];

/// No body is packed often enough to need more.
const NAME_MAX_BYTES: usize = 64;

/// The codings of a body in the order in which they were applied: `gzip`, or `deflate,gzip`; empty for none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentCoding(String);

impl ContentCoding {
    /// What the response says of its body.
    pub fn of(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(CONTENT_ENCODING).iter();
        let lines: Vec<&str> = lines.filter_map(|line| line.to_str().ok()).collect();
        Self::named(&lines.join(","))
    }

    /// Written in one way: lower case, without blanks, and without `identity`.
    pub fn named(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        let codings: Vec<&str> = text
            .split(',')
            .map(str::trim)
            .filter(|coding| !coding.is_empty() && *coding != "identity")
            .filter(|coding| coding.bytes().all(|byte| byte.is_ascii_graphic()))
            .collect();
        let name = codings.join(",");
        Self(if name.len() > NAME_MAX_BYTES {
            "unknown".to_owned()
        } else {
            name
        })
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_identity(&self) -> bool {
        self.0.is_empty()
    }

    /// The body unpacked. A coding that the bytes don't have, or that this version does not know, leaves them as they are;
    /// gzip is recognised without a name, too. `None` if it unpacks to more than `max` bytes.
    pub fn decode<'a>(&self, body: &'a [u8], max: usize) -> Option<Cow<'a, [u8]>> {
        let mut unpacked: Option<Zeroizing<Vec<u8>>> = None;
        for coding in self.0.rsplit(',').chain(["gzip"]) {
            let packed = unpacked.as_deref().map_or(body, Vec::as_slice);
            let next = match coding {
                "gzip" | "x-gzip" if packed.starts_with(&GZIP_MAGIC) => {
                    unpack(MultiGzDecoder::new(packed), max, Ending::Any)?
                }
                "deflate" => {
                    let zlib = unpack(ZlibDecoder::new(packed), max, Ending::Any)?;
                    if zlib.is_empty() {
                        // Some servers leave out the zlib header. Nothing but a proper end tells their bytes from others.
                        unpack(DeflateDecoder::new(packed), max, Ending::Proper)?
                    } else {
                        zlib
                    }
                }
                _ => continue,
            };
            if !next.is_empty() {
                unpacked = Some(next);
            }
        }
        match unpacked {
            Some(mut unpacked) => Some(Cow::Owned(std::mem::take(&mut *unpacked))),
            None => (body.len() <= max).then_some(Cow::Borrowed(body)),
        }
    }
}

/// Which bytes count as unpacked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Also those in front of a wrong or missing checksum.
    Any,
    /// Only those that end as they should.
    Proper,
}

/// What the decoder gives, if anything; `None` if that is more than `max` bytes.
fn unpack(decoder: impl Read, max: usize, ending: Ending) -> Option<Zeroizing<Vec<u8>>> {
    let mut unpacked = Zeroizing::new(Vec::new());
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    let read = decoder.take(limit).read_to_end(&mut unpacked);
    if read.is_err() && ending == Ending::Proper {
        return Some(Zeroizing::default());
    }
    (unpacked.len() <= max).then_some(unpacked)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use reqwest::header::HeaderValue;

    use super::*;

    const TEXT: &[u8] = br#"{"access_token":"a"}"#;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(text: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_body_is_unpacked_by_its_coding_or_by_its_first_bytes() {
        let two_members = [gzip(&TEXT[..5]), gzip(&TEXT[5..])].concat();
        let without_checksum = gzip(TEXT);
        let without_checksum = without_checksum[..without_checksum.len() - 8].to_vec();
        for (coding, body) in [
            ("", TEXT.to_vec()),
            ("identity", TEXT.to_vec()),
            ("br", TEXT.to_vec()),
            ("gzip", TEXT.to_vec()),
            ("deflate", TEXT.to_vec()),
            ("gzip", gzip(TEXT)),
            ("X-GZip", gzip(TEXT)),
            ("", gzip(TEXT)),
            ("identity", gzip(TEXT)),
            ("deflate", gzip(TEXT)),
            ("gzip", two_members),
            ("gzip", without_checksum),
            ("deflate", zlib(TEXT)),
            ("deflate", deflate(TEXT)),
            ("deflate, gzip", gzip(&zlib(TEXT))),
            ("gzip, identity, gzip", gzip(&gzip(TEXT))),
        ] {
            let decoded = ContentCoding::named(coding).decode(&body, 1000);
            assert_eq!(decoded.unwrap(), TEXT, "{coding}: {body:?}");
        }
    }

    #[test]
    fn what_can_not_be_unpacked_stays_as_it_is() {
        for body in [&b"\x1F\x8B"[..], b"\x1F\x8B\x08nonsense", b""] {
            let decoded = ContentCoding::named("gzip").decode(body, 1000);
            assert_eq!(decoded.unwrap(), body);
        }
    }

    #[test]
    fn a_small_body_that_unpacks_to_a_large_one_is_given_up_at_the_limit() {
        let bomb = gzip(&vec![b' '; 1_000_000]);
        for coding in ["", "gzip"] {
            assert_eq!(ContentCoding::named(coding).decode(&bomb, 999_999), None);
        }
        let zlib = zlib(&vec![b' '; 1_000_000]);
        assert_eq!(ContentCoding::named("deflate").decode(&zlib, 999_999), None);
        assert!(
            ContentCoding::named("deflate")
                .decode(&zlib, 1_000_000)
                .is_some()
        );
        assert_eq!(ContentCoding::default().decode(TEXT, TEXT.len() - 1), None);
    }

    #[test]
    fn a_coding_is_written_in_one_way() {
        let mut headers = HeaderMap::new();
        assert!(ContentCoding::of(&headers).is_identity());
        headers.append(
            CONTENT_ENCODING,
            HeaderValue::from_static(" Deflate ,identity"),
        );
        headers.append(CONTENT_ENCODING, HeaderValue::from_static("GZIP, a b"));
        assert_eq!(ContentCoding::of(&headers).as_str(), "deflate,gzip");
        assert_eq!(
            ContentCoding::named(&"gzip,".repeat(100)).as_str(),
            "unknown"
        );
    }
}
