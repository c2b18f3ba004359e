//! The head of a request to the metrics endpoint, and the heads of its answers. HTTP/1 as far as a scrape needs it: one
//! request a connection, no body.

/// A head is not longer.
pub const HEAD_MAX: usize = 8 << 10;
/// It has no more lines.
const HEADERS_MAX: usize = 64;
/// The one thing to be had.
const PATH: &str = "/metrics";

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The metrics.
    Metrics,
    /// Nothing is at that path.
    NotFound,
    /// It can only be got.
    MethodNotAllowed,
    /// That is no request.
    BadRequest,
    /// The head is longer than anybody's.
    TooLarge,
}

impl Verdict {
    /// The status line's number and phrase.
    #[must_use]
    pub const fn status(self) -> &'static str {
        match self {
            Self::Metrics => "200 OK",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::BadRequest => "400 Bad Request",
            Self::TooLarge => "431 Request Header Fields Too Large",
        }
    }
}

/// What becomes of a request that begins with `bytes`; none while its head is not complete.
#[must_use]
pub fn judge(bytes: &[u8]) -> Option<Verdict> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {
            let path = request.path.unwrap_or_default();
            Some(match path.split_once('?').map_or(path, |(path, _)| path) {
                PATH if request.method == Some("GET") => Verdict::Metrics,
                PATH => Verdict::MethodNotAllowed,
                _ => Verdict::NotFound,
            })
        }
        Ok(httparse::Status::Partial) if bytes.len() >= HEAD_MAX => Some(Verdict::TooLarge),
        Ok(httparse::Status::Partial) => None,
        Err(httparse::Error::TooManyHeaders) => Some(Verdict::TooLarge),
        Err(_) => Some(Verdict::BadRequest),
    }
}

/// The head of an answer with `length` bytes of `content_type` behind it; the connection ends with it.
#[must_use]
pub fn head(verdict: Verdict, content_type: &str, length: usize) -> String {
    let allow = if verdict == Verdict::MethodNotAllowed { "Allow: GET\r\n" } else { "" };
    let status = verdict.status();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{allow}Connection: close\r\n\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_get_metrics_is_answered_with_them() {
        let table = [
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", Some(Verdict::Metrics)),
            ("GET /metrics HTTP/1.0\r\n\r\n", Some(Verdict::Metrics)),
            ("GET /metrics?name%5B%5D=x HTTP/1.1\r\n\r\n", Some(Verdict::Metrics)),
            ("POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n", Some(Verdict::MethodNotAllowed)),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", Some(Verdict::MethodNotAllowed)),
            ("GET /metrics/ HTTP/1.1\r\n\r\n", Some(Verdict::NotFound)),
            ("GET / HTTP/1.1\r\n\r\n", Some(Verdict::NotFound)),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n", None),
            ("", None),
            ("GET /metrics HTTP/2.0\r\n\r\n", Some(Verdict::BadRequest)),
            ("\0\0\0\x2f\0\x12\0\x04", Some(Verdict::BadRequest)),
        ];
        for (bytes, verdict) in table {
            assert_eq!(judge(bytes.as_bytes()), verdict, "{bytes:?}");
        }
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
        assert_eq!(judge(many.as_bytes()), Some(Verdict::TooLarge));
        let long = format!("GET /metrics HTTP/1.1\r\na: {}", "b".repeat(HEAD_MAX));
        assert_eq!(judge(long.as_bytes()), Some(Verdict::TooLarge));
    }

    proptest! {
        /// Whatever comes: an answer or a wait, and a wait has an end.
        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..HEAD_MAX + 9)) {
            let verdict = judge(&bytes);
            prop_assert!(verdict.is_some() || bytes.len() < HEAD_MAX);
        }

        /// A head that comes in pieces is judged as the whole, and not before its last line.
        #[test]
        fn pieces_are_judged_as_the_whole(
            method in "GET|POST|PUT", path in "/metrics|/[a-z]{0,9}", headers in prop::collection::vec("[A-Za-z]{1,9}: [ -~]{0,20}", 0..8),
        ) {
            let mut head = format!("{method} {path} HTTP/1.1\r\n");
            headers.iter().for_each(|header| head += &format!("{header}\r\n"));
            head += "\r\n";
            let whole = judge(head.as_bytes());
            prop_assert!(whole.is_some());
            for end in 0..head.len() - 1 {
                prop_assert_eq!(judge(&head.as_bytes()[..end]), None, "after {} bytes", end);
            }
            let expected = match (method.as_str(), path.as_str()) {
                ("GET", "/metrics") => Verdict::Metrics,
                (_, "/metrics") => Verdict::MethodNotAllowed,
                _ => Verdict::NotFound,
            };
            prop_assert_eq!(whole, Some(expected));
        }
    }
}
