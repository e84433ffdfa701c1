//! Characters that get into values on their way: the CR of a Windows file, the byte order mark of an editor, quotes that a
//! tool took for a part of the value, blanks of a copied line.

/// What a value is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// An id, URL, path, name or number: blanks and quotes around it are never meant.
    Name,
    /// Several of them, separated by white space.
    Names,
    /// Text that others choose.
    Secret,
}

/// Keys that hold several values.
const SEVERAL: [&str; 5] = ["keys", "aliases", "allowed_origins", "scope", "companies"];

impl Use {
    /// Of a key such as `section.key`.
    pub(super) fn of(path: &str) -> Self {
        let key = path.rsplit('.').next().unwrap_or(path);
        if SEVERAL.contains(&key) {
            Self::Names
        } else if super::is_secret(key) {
            Self::Secret
        } else {
            Self::Name
        }
    }
}

/// Why a text can't be what was meant, without the text.
pub(super) fn problem(text: &str, used_as: Use) -> Option<String> {
    let is_foreign = |c: &char| match *c {
        '\u{feff}' | char::REPLACEMENT_CHARACTER => true,
        // They can't be seen, and stand in no id.
        '\u{200b}' | '\u{200c}' | '\u{200e}' | '\u{2060}' => used_as != Use::Secret,
        c if c.is_control() => !(used_as == Use::Names && c.is_whitespace()),
        _ => false,
    };
    if let Some(found) = text.chars().find(is_foreign) {
        return Some(match found {
            '\u{feff}' => "has a byte order mark (U+FEFF)".to_owned(),
            char::REPLACEMENT_CHARACTER => "is not UTF-8".to_owned(),
            found if found.is_control() => {
                format!("has a control character (U+{:04X})", u32::from(found))
            }
            found => format!("has an invisible character (U+{:04X})", u32::from(found)),
        });
    }
    match used_as {
        Use::Name if text != text.trim() => Some("has a blank at its beginning or end".to_owned()),
        Use::Name | Use::Names if is_quoted(text) => Some(QUOTED.to_owned()),
        _ => None,
    }
}

const QUOTED: &str = "has quotes around it, which are taken for a part of it";

/// What is odd about a secret that may be meant so all the same.
pub(super) fn warning(text: &str, used_as: Use) -> Option<&'static str> {
    if used_as != Use::Secret {
        None
    } else if text != text.trim() {
        Some("has a blank at its beginning or end, which is taken for a part of it")
    } else if is_quoted(text) {
        Some(QUOTED)
    } else {
        None
    }
}

fn is_quoted(text: &str) -> bool {
    ['"', '\''].iter().any(|quote| {
        let inside = text.strip_prefix(*quote);
        inside.is_some_and(|inside| inside.ends_with(*quote))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_value_caught_on_its_way_is_named() {
        use Use::{Name, Names, Secret};
        for (text, used_as, says) in [
            ("cid", Name, None),
            ("c'i\"d", Name, None),
            ("Åcme 1", Name, None),
            ("cid\r", Name, Some("control character (U+000D)")),
            ("pass\r", Secret, Some("control character (U+000D)")),
            ("\npass", Secret, Some("control character (U+000A)")),
            ("pa\0ss", Secret, Some("control character (U+0000)")),
            ("\u{feff}pass", Secret, Some("byte order mark")),
            ("k1:AAAA\r\nk2:AAAA\n", Names, None),
            ("k1:\u{7}AAAA", Names, Some("control character (U+0007)")),
            ("\u{feff}k1:AAAA", Names, Some("byte order mark")),
            ("p\u{fffd}ss", Secret, Some("not UTF-8")),
            ("cid\u{200b}", Name, Some("invisible character (U+200B)")),
            (" cid", Name, Some("blank")),
            ("cid\u{a0}", Name, Some("blank")),
            (" a b ", Names, None),
            ("\"cid\"", Name, Some("quotes")),
            ("'a b'", Names, Some("quotes")),
            ("\"", Name, None),
            ("  pass word ", Secret, None),
            ("'pass'", Secret, None),
        ] {
            let said = problem(text, used_as);
            let fits = match (&said, says) {
                (Some(said), Some(says)) => said.contains(says),
                (None, None) => true,
                _ => false,
            };
            assert!(fits, "{text:?} as {used_as:?}: {said:?}");
        }
    }

    #[test]
    fn a_secret_with_blanks_or_quotes_around_it_is_warned_of() {
        for odd in [" pass", "pass ", "\"pass\"", "'pass'"] {
            assert!(warning(odd, Use::Secret).is_some(), "{odd}");
            assert!(warning(odd, Use::Name).is_none(), "{odd}");
        }
        for fine in ["", "pass", "pass word", "\"pass", "pa\"ss\""] {
            assert!(warning(fine, Use::Secret).is_none(), "{fine}");
        }
    }

    #[test]
    fn a_key_tells_what_its_value_is_used_as() {
        for (path, used_as) in [
            ("webhook.password", Use::Secret),
            ("apps.pipedrive.second_client_secret", Use::Secret),
            ("webhook.password_file", Use::Name),
            ("encryption.keys", Use::Names),
            ("encryption.keys_file", Use::Name),
            ("database.url", Use::Name),
            ("apps.pipedrive.client_id", Use::Name),
        ] {
            assert_eq!(Use::of(path), used_as, "{path}");
        }
    }
}
