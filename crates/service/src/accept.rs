//! `Accept`: which of our representations a caller takes (RFC 9110 §12.5.1).

use actix_web::HttpRequest;
use actix_web::http::header::{Accept, Header as _, Quality};
use actix_web::mime::Mime;

/// How closely a media range describes a type, the closest last: `*/*`, `text/*`, `text/plain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Anything,
    Family,
    Named,
}

/// Whether the header allows this type with a weight above 0. Without a header nothing is allowed by name.
pub fn accepts(request: &HttpRequest, family: &str, kind: &str) -> bool {
    closest(request, family, kind).is_some_and(|(_, weight)| weight > Quality::ZERO)
}

/// Whether the header does so by the type's own name: `*/*` is the default of clients that have no preference.
pub fn accepts_by_name(request: &HttpRequest, family: &str, kind: &str) -> bool {
    closest(request, family, kind)
        .is_some_and(|(fit, weight)| fit == Fit::Named && weight > Quality::ZERO)
}

/// The range that describes the type most closely decides.
fn closest(request: &HttpRequest, family: &str, kind: &str) -> Option<(Fit, Quality)> {
    let Accept(ranges) = Accept::parse(request).ok()?;
    ranges
        .iter()
        .filter_map(|range| Some((fit(&range.item, family, kind)?, range.quality)))
        .max()
}

fn fit(range: &Mime, family: &str, kind: &str) -> Option<Fit> {
    if range.type_() == family && range.subtype() == kind {
        Some(Fit::Named)
    } else if range.type_() == family && range.subtype() == "*" {
        Some(Fit::Family)
    } else if range.type_() == "*" {
        Some(Fit::Anything)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::ACCEPT;
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn the_closest_range_decides_and_a_weight_of_zero_refuses() {
        for (header, plain, json, page) in [
            ("*/*", true, true, false),
            ("", false, false, false),
            ("text/plain", true, false, false),
            ("TEXT/*", true, false, false),
            ("application/json", false, true, false),
            ("application/*;q=0.1", false, true, false),
            ("*/*;q=0, application/json", false, true, false),
            ("text/plain;q=0, */*", false, true, false),
            ("application/json;q=0, text/plain", true, false, false),
            ("application/json;q=0.0", false, false, false),
            ("text/html;q=0, */*", true, true, false),
            ("text/html;level=1;q=0.4", false, false, true),
            (
                "Text/HTML,application/xhtml+xml,*/*;q=0.8",
                true,
                true,
                true,
            ),
            ("text/html, *; q=.2, */*; q=.2", false, false, true),
            ("ü, text/html", false, false, false),
        ] {
            let request = TestRequest::default().insert_header((ACCEPT, header));
            let request = request.to_http_request();
            let accepted = (
                accepts(&request, "text", "plain"),
                accepts(&request, "application", "json"),
                accepts_by_name(&request, "text", "html"),
            );
            assert_eq!(accepted, (plain, json, page), "{header}");
        }
        let several = TestRequest::default()
            .append_header((ACCEPT, "application/json"))
            .append_header((ACCEPT, "text/*;q=0.5"));
        assert!(accepts(&several.to_http_request(), "text", "plain"));
        assert!(!accepts(
            &TestRequest::default().to_http_request(),
            "text",
            "plain"
        ));
    }
}
