//! Companies, users and persons: made from their ids, the same in every run.

use actix_web::web::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

const COMPANIES: [&str; 6] = [
    "Acme Solar",
    "Borealis Energy",
    "Café Größe",
    "Delta Pumps",
    "Elm & Sons",
    "Foxglove Labs",
];
const FIRST_NAMES: [&str; 8] = [
    "Alex", "Bo", "Chidi", "Dana", "Eero", "Fatima", "Goran", "Hana",
];
const LAST_NAMES: [&str; 8] = [
    "Admin", "Berg", "Costa", "Dvořák", "Eklund", "Fischer", "Gupta", "Holm",
];

/// Name, emails, phones. The third contains the address of the fourth and comes first: a reader that takes the
/// first hit of a loose search gets the wrong person.
const PERSONS: [(&str, &[&str], &[&str]); 12] = [
    ("Jane Doe", &["jane@example.com"], &["+372 555555555"]),
    ("Priya Solar", &["priya@example.com"], &[]),
    ("Joann Carter", &["joann@example.com"], &["+1 555 0100"]),
    ("Ann Carter", &["ann@example.com"], &["+1 555 0101"]),
    (
        "Käthe Größe",
        &["käthe@müller.example"],
        &["+49 30 1234567"],
    ),
    ("Sam Plus", &["sam+solar@example.com"], &[]),
    ("Lee Hash", &["lee#1@example.com"], &[]),
    (
        "Maria Several",
        &[
            "maria@example.com",
            "maria.private@example.org",
            "m.several@example.net",
        ],
        &["+34 600 000 001", "+34 600 000 002"],
    ),
    ("山田 太郎", &["taro@example.jp"], &["+81 3-1234-5678"]),
    (
        "Seán \"Sol\" O'Brien <CEO>",
        &["sean.o'brien@example.ie"],
        &[],
    ),
    ("Nobody Mailed", &[], &["+44 20 7946 0000"]),
    ("Ümit 🌞 Yılmaz", &["Umit.YILMAZ@Example.com"], &[]),
];

#[derive(Debug)]
pub(crate) struct Company {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) domain: String,
    pub(crate) persons: Vec<Person>,
    pub(crate) spent: Spent,
}

/// How much of the daily budget is gone; a new day begins at midnight UTC.
#[derive(Debug, Default)]
pub(crate) struct Spent {
    pub(crate) day: u64,
    pub(crate) tokens: u64,
}

#[derive(Debug)]
pub(crate) struct Person {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) emails: Vec<String>,
    pub(crate) phones: Vec<String>,
    pub(crate) organization: Option<u64>,
    pub(crate) folded: Folded,
}

/// Lower case copies, so that a search folds its term alone.
#[derive(Debug)]
pub(crate) struct Folded {
    pub(crate) name: String,
    pub(crate) emails: Vec<String>,
    pub(crate) phones: Vec<String>,
}

/// Body of `POST /_sim/persons`.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPerson {
    #[serde(default = "first_company")]
    pub(crate) company: u64,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) emails: Vec<String>,
    #[serde(default)]
    pub(crate) phones: Vec<String>,
}

fn first_company() -> u64 {
    1
}

impl Company {
    pub(crate) fn new(id: u64) -> Self {
        let name = pick(&COMPANIES, id.saturating_sub(1))
            .filter(|_| (1..=6).contains(&id))
            .map_or_else(|| format!("Company {id}"), str::to_owned);
        let mut company = Self {
            id,
            domain: slug(&name),
            name,
            persons: Vec::new(),
            spent: Spent::default(),
        };
        for (name, emails, phones) in PERSONS {
            let name = match id {
                1 => name.to_owned(),
                _ => format!("{name} of {}", company.name),
            };
            company.add_person(name, owned(emails), owned(phones));
        }
        company
    }

    pub(crate) fn add_person(
        &mut self,
        name: String,
        emails: Vec<String>,
        phones: Vec<String>,
    ) -> u64 {
        let id = self.persons.last().map_or(1, |person| person.id + 1);
        let folded = Folded {
            name: name.to_lowercase(),
            emails: emails.iter().map(|email| email.to_lowercase()).collect(),
            phones: phones.iter().map(|phone| phone.to_lowercase()).collect(),
        };
        self.persons.push(Person {
            id,
            name,
            emails,
            phones,
            organization: (id % 2 == 1).then_some(1),
            folded,
        });
        id
    }

    pub(crate) fn organization_name(&self) -> String {
        format!("{} Customers", self.name)
    }

    /// The answer of `users/me`. It never changes, so it is written once.
    pub(crate) fn user_body(&self, user_id: u64) -> Bytes {
        let name = user_name(user_id);
        let email = format!("user{user_id}@{}.example", self.domain);
        let permission_set = |app: &str, admin| json!({"app": app, "admin": admin, "permission_set_id": "62cc4d7f-4038-4352-abf3-a8c1c822b631"});
        let body = json!({
            "success": true,
            "data": {
                "id": user_id,
                "name": name,
                "default_currency": "EUR",
                "locale": "et_EE",
                "lang": 1,
                "email": email,
                "phone": null,
                "activated": true,
                "last_login": "2026-11-20 08:45:56",
                "created": "2024-11-13 09:16:26",
                "modified": "2026-11-20 08:45:56",
                "has_created_company": user_id == 1,
                "access": [
                    permission_set("sales", true),
                    permission_set("global", user_id == 1),
                    permission_set("account_settings", user_id == 1),
                ],
                "active_flag": true,
                "timezone_name": "Europe/Tallinn",
                "timezone_offset": "+02:00",
                "role_id": 1,
                "icon_url": null,
                "is_you": true,
                "is_deleted": false,
                "company_id": self.id,
                "company_name": self.name,
                "company_domain": self.domain,
                "company_country": "EE",
                "company_industry": "IT Services",
                "language": {"language_code": "en", "country_code": "US"},
            },
        });
        Bytes::from(body.to_string())
    }
}

pub(crate) fn user_name(id: u64) -> String {
    let index = id.saturating_sub(1);
    let first = pick(&FIRST_NAMES, index % 8).unwrap_or_default();
    let last = pick(&LAST_NAMES, index / 8 % 8).unwrap_or_default();
    format!("{first} {last}")
}

fn pick(names: &[&'static str], index: u64) -> Option<&'static str> {
    names.get(usize::try_from(index).ok()?).copied()
}

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

/// A subdomain as Pipedrive makes one of a name: ASCII letters, digits and single hyphens.
fn slug(name: &str) -> String {
    let words: Vec<String> = name
        .split(|c: char| !c.is_alphanumeric())
        .map(|word| {
            word.chars()
                .filter(char::is_ascii)
                .collect::<String>()
                .to_lowercase()
        })
        .filter(|word| !word.is_empty())
        .collect();
    words.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn companies_and_users_are_made_from_their_ids() {
        let company = Company::new(1);

        assert_eq!(
            (company.name.as_str(), company.domain.as_str()),
            ("Acme Solar", "acme-solar")
        );
        assert_eq!(Company::new(3).domain, "caf-gre");
        assert_eq!(Company::new(54).domain, "company-54");
        assert_eq!(user_name(1), "Alex Admin");
        assert_eq!(user_name(10), "Bo Berg");
    }

    #[test]
    fn the_same_email_has_another_name_in_every_company() {
        assert_eq!(Company::new(1).persons[0].name, "Jane Doe");
        assert_eq!(
            Company::new(2).persons[0].name,
            "Jane Doe of Borealis Energy"
        );
    }
}
