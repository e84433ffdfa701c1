//! `GET /api/v2/persons/search`.

use std::borrow::Cow;

use actix_web::http::header::ContentType;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use crate::api::errors;
use crate::api::gateway::{self, Caller, Kind, Route};
use crate::world::people::Person;
use crate::world::{Shared, World};

const SEARCH: Route = Route {
    name: "persons/search",
    cost: 20,
    kind: Kind::Search,
    scopes: &["contacts:read", "contacts:full", "search:read"],
};
const DEFAULT_LIMIT: usize = 100;
/// Pipedrive's document says 500; its search was seen to refuse more than 100.
const MAX_LIMIT: usize = 100;

/// Persons by name, email or phone.
#[utoipa::path(
    tag = "provider",
    params(
        ("term" = String, Query, description = "At least two characters, or one with exact_match"),
        ("fields" = Option<String>, Query, description = "Comma list of custom_fields, email, notes, phone, name; all if not given"),
        ("exact_match" = Option<bool>, Query, description = "The whole value, whatever its case"),
        ("organization_id" = Option<u64>, Query, description = "Only persons of this organization"),
        ("include_fields" = Option<String>, Query, description = "person.picture; no simulated person has one"),
        ("limit" = Option<u64>, Query, description = "1 to 100; 100 if not given"),
        ("cursor" = Option<String>, Query, description = "next_cursor of the page before"),
    ),
    responses(
        (status = 200, description = "success, data.items, additional_data.next_cursor", content_type = "application/json"),
        (status = 400, description = "A parameter is unknown or invalid", content_type = "application/json"),
        (status = 401, description = "No good bearer", content_type = "application/json"),
        (status = 403, description = "The token's scopes do not open this", content_type = "application/json"),
        (status = 429, description = "Burst limit or daily budget", content_type = "application/json"),
    ),
)]
#[get("/api/v2/persons/search")]
pub(crate) async fn persons_search(request: HttpRequest, shared: Data<Shared>) -> HttpResponse {
    gateway::pass(&request, &shared, &SEARCH, answer).await
}

fn answer(world: &mut World, caller: Caller, query: &str) -> HttpResponse {
    let loose = world.settings.loose_email_match;
    let company = world.company(caller.company_id);
    let query = match Search::parse(query) {
        Ok(query) => query,
        Err(detail) => return errors::validation(&detail),
    };
    let mut found = company
        .persons
        .iter()
        .filter(|person| person.id >= query.from && query.finds(person, loose));
    let organization = company.organization_name();
    let items: Vec<Hit<'_>> = found
        .by_ref()
        .take(query.limit)
        .map(|person| hit(person, &organization, caller))
        .collect();
    let page = Page {
        success: true,
        data: Items { items },
        additional_data: Additional {
            next_cursor: found.next().map(|person| cursor(person.id)),
        },
    };
    HttpResponse::Ok()
        .insert_header(ContentType::json())
        .body(serde_json::to_vec(&page).unwrap_or_default())
}

/// A search request whose parameters are all of use.
#[derive(Debug)]
struct Search {
    term: String,
    fields: Fields,
    matching: Matching,
    organization: Option<u64>,
    limit: usize,
    from: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matching {
    Exact,
    Within,
}

/// Notes and custom fields can be asked for too; the simulated persons have none.
#[derive(Debug, Clone, Copy)]
struct Fields {
    name: bool,
    email: bool,
    phone: bool,
}

impl Search {
    fn parse(query: &str) -> Result<Self, String> {
        let mut term = None;
        let mut search = Self {
            term: String::new(),
            fields: Fields {
                name: true,
                email: true,
                phone: true,
            },
            matching: Matching::Within,
            organization: None,
            limit: DEFAULT_LIMIT,
            from: 0,
        };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "term" => term = Some(value.to_lowercase()),
                "fields" => search.fields = Fields::parse(&value)?,
                "exact_match" => {
                    search.matching = match value.as_ref() {
                        "true" => Matching::Exact,
                        "false" => Matching::Within,
                        _ => return Err("exact_match: not a boolean".to_owned()),
                    };
                }
                "organization_id" => search.organization = Some(number(&name, &value)?),
                "include_fields" if value == "person.picture" => {}
                "include_fields" => return Err(format!("include_fields: {value} is not allowed")),
                "limit" => search.limit = limit(&value)?,
                "cursor" => {
                    search.from = Cursor::parse(&value).ok_or("cursor: not a valid cursor")?;
                }
                _ => return Err(format!("{name}: unknown parameter")),
            }
        }
        search.term = term.ok_or("term: is required")?;
        let shortest = match search.matching {
            Matching::Exact => 1,
            Matching::Within => 2,
        };
        if search.term.chars().count() < shortest {
            return Err(format!("term: must be at least {shortest} characters long"));
        }
        Ok(search)
    }

    fn finds(&self, person: &Person, loose: bool) -> bool {
        let is = |value: &String| *value == self.term;
        let has = |value: &String| value.contains(&self.term);
        let folded = &person.folded;
        let hit = match self.matching {
            Matching::Within => {
                self.fields.name && has(&folded.name)
                    || self.fields.email && folded.emails.iter().any(has)
                    || self.fields.phone && folded.phones.iter().any(has)
            }
            Matching::Exact => {
                self.fields.name && is(&folded.name)
                    || self.fields.email
                        && folded
                            .emails
                            .iter()
                            .any(|email| if loose { has(email) } else { is(email) })
                    || self.fields.phone && folded.phones.iter().any(is)
            }
        };
        hit && self
            .organization
            .is_none_or(|id| person.organization == Some(id))
    }
}

impl Fields {
    fn parse(list: &str) -> Result<Self, String> {
        let mut fields = Self {
            name: false,
            email: false,
            phone: false,
        };
        for field in list.split(',') {
            match field {
                "name" => fields.name = true,
                "email" => fields.email = true,
                "phone" => fields.phone = true,
                "notes" | "custom_fields" => {}
                other => return Err(format!("fields: {other} is not allowed")),
            }
        }
        Ok(fields)
    }
}

fn number(name: &str, value: &str) -> Result<u64, String> {
    value
        .parse()
        .map_err(|_not_digits| format!("{name}: not a number"))
}

fn limit(value: &str) -> Result<usize, String> {
    value
        .parse()
        .ok()
        .filter(|limit| (1..=MAX_LIMIT).contains(limit))
        .ok_or_else(|| format!("limit: must be a number between 1 and {MAX_LIMIT}"))
}

/// Where the next page begins, in the shape that Pipedrive's own sample decodes to.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cursor<'a> {
    field: Cow<'a, str>,
    field_value: u64,
    sort_direction: Cow<'a, str>,
    id: u64,
}

impl Cursor<'_> {
    fn parse(text: &str) -> Option<u64> {
        let json = URL_SAFE_NO_PAD.decode(text).ok()?;
        serde_json::from_slice::<Cursor<'_>>(&json)
            .ok()
            .map(|cursor| cursor.id)
    }
}

fn cursor(id: u64) -> String {
    let cursor = Cursor {
        field: "id".into(),
        field_value: id,
        sort_direction: "asc".into(),
        id,
    };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&cursor).unwrap_or_default())
}

#[derive(Debug, Serialize)]
struct Page<'a> {
    success: bool,
    data: Items<'a>,
    additional_data: Additional,
}

#[derive(Debug, Serialize)]
struct Items<'a> {
    items: Vec<Hit<'a>>,
}

#[derive(Debug, Serialize)]
struct Additional {
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize)]
struct Hit<'a> {
    result_score: f64,
    item: Item<'a>,
}

#[derive(Debug, Serialize)]
struct Item<'a> {
    id: u64,
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    phones: &'a [String],
    emails: &'a [String],
    visible_to: u8,
    owner: Owner,
    organization: Option<Organization<'a>>,
    custom_fields: [&'a str; 0],
    notes: [&'a str; 0],
}

#[derive(Debug, Serialize)]
struct Owner {
    id: u64,
}

#[derive(Debug, Serialize)]
struct Organization<'a> {
    id: u64,
    name: &'a str,
    address: Option<&'a str>,
}

fn hit<'a>(person: &'a Person, organization: &'a str, caller: Caller) -> Hit<'a> {
    Hit {
        result_score: 0.5092,
        item: Item {
            id: person.id,
            kind: "person",
            name: &person.name,
            phones: &person.phones,
            emails: &person.emails,
            visible_to: 3,
            owner: Owner { id: caller.user_id },
            organization: person.organization.map(|id| Organization {
                id,
                name: organization,
                address: None,
            }),
            custom_fields: [],
            notes: [],
        },
    }
}

#[cfg(test)]
mod tests;
