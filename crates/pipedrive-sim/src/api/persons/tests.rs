use super::*;
use crate::world::people::Company;

fn names(query: &str, loose: bool) -> Vec<String> {
    let search = Search::parse(query).unwrap();
    Company::new(1)
        .persons
        .into_iter()
        .filter(|person| search.finds(person, loose))
        .map(|person| person.name)
        .collect()
}

#[test]
fn an_email_is_matched_loosely_and_the_wrong_person_comes_first() {
    let query = "term=ann%40example.com&fields=email&exact_match=true";

    assert_eq!(names(query, true), ["Joann Carter", "Ann Carter"]);
    assert_eq!(names(query, false), ["Ann Carter"]);
}

#[test]
fn awkward_addresses_are_found_when_they_are_encoded() {
    for (term, name) in [
        ("sam%2Bsolar%40example.com", "Sam Plus"),
        ("lee%231%40example.com", "Lee Hash"),
        ("k%C3%A4the%40m%C3%BCller.example", "Käthe Größe"),
        ("UMIT.yilmaz%40example.com", "Ümit 🌞 Yılmaz"),
        ("maria.private%40example.org", "Maria Several"),
    ] {
        assert_eq!(names(&format!("term={term}&fields=email"), false), [name]);
    }
}

#[test]
fn fields_limit_where_it_looks() {
    assert_eq!(names("term=jane", true), ["Jane Doe"]);
    assert!(names("term=jane&fields=phone,notes,custom_fields", true).is_empty());
    assert_eq!(names("term=555+0100&fields=phone", true), ["Joann Carter"]);
}

#[test]
fn parameters_are_taken_strictly() {
    for (query, said) in [
        ("", "term: is required"),
        ("term=j", "term: must be at least 2"),
        ("term=&exact_match=true", "term: must be at least 1"),
        ("term=jane&limit=101", "limit:"),
        ("term=jane&limit=0", "limit:"),
        ("term=jane&exact_match=1", "exact_match:"),
        ("term=jane&organization_id=one", "organization_id:"),
        ("term=jane&fields=email,address", "fields: address"),
        ("term=jane&include_fields=person.age", "include_fields:"),
        ("term=jane&cursor=nonsense", "cursor:"),
        ("term=jane&api_token=1", "api_token: unknown"),
    ] {
        let refused = Search::parse(query).unwrap_err();
        assert!(refused.starts_with(said), "{query}: {refused}");
    }
    assert!(Search::parse("term=j&exact_match=true&include_fields=person.picture").is_ok());
}

#[test]
fn a_cursor_says_where_the_next_page_begins() {
    assert_eq!(Cursor::parse(&cursor(7)), Some(7));
    assert_eq!(
        URL_SAFE_NO_PAD.decode(cursor(7)).unwrap(),
        br#"{"field":"id","fieldValue":7,"sortDirection":"asc","id":7}"#
    );
}
