//! `login.companies`: who may install.

use crate::oauth::Identity;

/// The companies whose installs are accepted; none named means any.
///
/// An entry of digits is a company id, any other a domain: `acme` or `acme.pipedrive.com`. A company can choose its domain but
/// not its id, so digits never match a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedCompanies(Vec<String>);

/// What `login.companies` says of a company.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// No company is named: any may install.
    Open,
    Listed,
    Unlisted,
}

impl AllowedCompanies {
    /// Entries are separated by blanks or commas.
    pub fn parse(text: &str) -> Self {
        let entries = text.split(|c: char| c == ',' || c.is_whitespace());
        Self(
            entries
                .filter(|entry| !entry.is_empty())
                .map(str::to_lowercase)
                .collect(),
        )
    }

    pub fn admission(&self, identity: &Identity) -> Admission {
        if self.0.is_empty() {
            return Admission::Open;
        }
        let domain = identity.company_domain.to_lowercase();
        let is_listed = self.0.iter().any(|entry| {
            if entry.bytes().all(|digit| digit.is_ascii_digit()) {
                *entry == identity.company_id
            } else {
                !domain.is_empty()
                    && (*entry == domain
                        || entry.strip_suffix(".pipedrive.com") == Some(&*domain)
                        || domain.strip_suffix(".pipedrive.com") == Some(&**entry))
            }
        });
        if is_listed {
            Admission::Listed
        } else {
            Admission::Unlisted
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn companies_are_named_by_id_or_domain() {
        let admission = |list: &str, id: &str, domain: &str| {
            AllowedCompanies::parse(list).admission(&Identity {
                company_id: id.to_owned(),
                company_domain: domain.to_owned(),
                company_name: String::new(),
                user_id: "1".to_owned(),
                user_name: String::new(),
            })
        };
        for (list, id, domain, expected) in [
            ("", "1", "acme", Admission::Open),
            (" , ", "1", "acme", Admission::Open),
            ("1", "1", "acme", Admission::Listed),
            ("7 1", "1", "", Admission::Listed),
            ("7,acme", "1", "acme", Admission::Listed),
            ("Acme.Pipedrive.com", "1", "acme", Admission::Listed),
            ("acme", "1", "ACME.pipedrive.com", Admission::Listed),
            ("7", "1", "acme", Admission::Unlisted),
            // The domain is the company's own choice.
            ("7", "666", "7", Admission::Unlisted),
            ("acme", "acme", "evil", Admission::Unlisted),
            ("acme", "1", "", Admission::Unlisted),
            ("acme", "1", "acme.evil.example", Admission::Unlisted),
        ] {
            assert_eq!(
                admission(list, id, domain),
                expected,
                "{list} {id} {domain}"
            );
        }
    }
}
