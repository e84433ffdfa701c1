//! What can be made to go wrong, and how often.

pub(crate) mod play;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /_sim/faults`: one way to fail, for the next requests that it fits.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    pub(crate) on: Target,
    /// Only requests whose path contains this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) route: Option<String>,
    /// Only token requests of this grant type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grant: Option<String>,
    /// How many requests; 0 or less: all until the next reset.
    #[serde(default = "once")]
    pub(crate) times: i64,
    pub(crate) fault: Fault,
    /// For `slow_ms`, and for a `call` that is made `after_answer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ms: Option<u64>,
    /// For `changed_api_domain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) api_domain: Option<String>,
    /// For faults that answer in place of the real answer: its `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retry_after: Option<String>,
    /// For `call`; `{query}` in it stands for the query of the request that was hit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
    /// For `call`; `GET` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<Method>,
    /// For `call`; `after_commit` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) when: Option<When>,
}

fn once() -> i64 {
    1
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    /// `/oauth/token`
    Token,
    /// `/oauth/revoke`
    Revoke,
    /// Everything under `/v1` and `/api`.
    Api,
}

/// The kinds. "Commit" is the moment at which a token request spends and issues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
pub(crate) enum Fault {
    /// 500 with a JSON body; no commit.
    #[serde(rename = "500")]
    InternalError,
    /// 503 with an HTML page; no commit.
    #[serde(rename = "503_html")]
    MaintenancePage,
    /// 429 of the two-second window; no commit.
    #[serde(rename = "429_burst")]
    Burst,
    /// 429 of the daily budget; no commit.
    #[serde(rename = "429_daily")]
    Daily,
    /// Takes the request and never answers; no commit. The connection is cut at the next reset or after ten minutes.
    #[serde(rename = "timeout")]
    Timeout,
    /// Closes the connection without an answer; no commit.
    #[serde(rename = "reset")]
    Reset,
    /// Commits, then closes the connection without an answer.
    #[serde(rename = "commit_then_reset")]
    CommitThenReset,
    /// Commits, then never answers.
    #[serde(rename = "commit_then_hang")]
    CommitThenHang,
    /// 200 with a body that is not JSON; no commit.
    #[serde(rename = "garbage")]
    Garbage,
    /// Commits, then the answer breaks off in the middle.
    #[serde(rename = "truncated")]
    Truncated,
    /// The HTML page with which Cloudflare blocks; no commit.
    #[serde(rename = "403_cloudflare_html")]
    CloudflareBlock,
    /// The real answer, `ms` later; the wait is before the commit.
    #[serde(rename = "slow_ms")]
    Slow,
    /// One 401, whatever `times` says.
    #[serde(rename = "401_once")]
    UnauthorizedOnce,
    /// 401 as often as `times` says; the API's body follows the setting `unauthorized_body`.
    #[serde(rename = "401")]
    Unauthorized,
    /// 402 of an account that is not paid; no commit.
    #[serde(rename = "402")]
    PaymentRequired,
    /// The token endpoint's 400 `invalid_grant`, although the token is good; no commit.
    #[serde(rename = "invalid_grant")]
    InvalidGrant,
    /// The token answer carries another `api_domain`.
    #[serde(rename = "changed_api_domain")]
    ChangedApiDomain,
    /// Calls `url` at the instant that `when` names and goes on when it has answered, or after ten seconds.
    #[serde(rename = "call")]
    Call,
}

impl Fault {
    /// As in the rule and in the statistics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::InternalError => "500",
            Self::MaintenancePage => "503_html",
            Self::Burst => "429_burst",
            Self::Daily => "429_daily",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::CommitThenReset => "commit_then_reset",
            Self::CommitThenHang => "commit_then_hang",
            Self::Garbage => "garbage",
            Self::Truncated => "truncated",
            Self::CloudflareBlock => "403_cloudflare_html",
            Self::Slow => "slow_ms",
            Self::UnauthorizedOnce => "401_once",
            Self::Unauthorized => "401",
            Self::PaymentRequired => "402",
            Self::InvalidGrant => "invalid_grant",
            Self::ChangedApiDomain => "changed_api_domain",
            Self::Call => "call",
        }
    }

    pub(crate) fn answers(self) -> Answers {
        match self {
            Self::Timeout
            | Self::Reset
            | Self::CommitThenReset
            | Self::CommitThenHang
            | Self::Truncated => Answers::Lost,
            Self::InternalError
            | Self::MaintenancePage
            | Self::Burst
            | Self::Daily
            | Self::Garbage
            | Self::CloudflareBlock
            | Self::Slow
            | Self::UnauthorizedOnce
            | Self::Unauthorized
            | Self::PaymentRequired
            | Self::InvalidGrant
            | Self::ChangedApiDomain
            | Self::Call => Answers::Whole,
        }
    }
}

/// Whether the one who asked hears a whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    Whole,
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum When {
    BeforeCommit,
    AfterCommit,
    /// Half of the answer is on its way.
    MidAnswer,
    /// All of it is; `ms` after that, if given.
    AfterAnswer,
}

impl When {
    /// As in the rule.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BeforeCommit => "before_commit",
            Self::AfterCommit => "after_commit",
            Self::MidAnswer => "mid_answer",
            Self::AfterAnswer => "after_answer",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Method {
    Get,
    Post,
    Delete,
}

impl Rule {
    /// What the rule lacks for its fault to work.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match self.fault {
            Fault::Slow if self.ms.is_none() => Err("slow_ms needs \"ms\""),
            Fault::ChangedApiDomain if self.api_domain.is_none() => {
                Err("changed_api_domain needs \"api_domain\"")
            }
            Fault::ChangedApiDomain | Fault::InvalidGrant if self.on != Target::Token => {
                Err("this fault is the token endpoint's alone")
            }
            Fault::Call if self.url.is_none() => Err("call needs \"url\""),
            _ => Ok(()),
        }
    }

    pub(crate) fn when(&self) -> When {
        self.when.unwrap_or(When::AfterCommit)
    }
}

/// The rules in force, oldest first; a request meets the first one that fits it.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Armed>);

#[derive(Debug)]
struct Armed {
    rule: Arc<Rule>,
    left: Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Times(i64),
    UntilReset,
}

/// A request as the rules see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) target: Target,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) grant: Option<&'a str>,
}

impl Faults {
    pub(crate) fn arm(&mut self, rule: Rule) {
        let left = match rule.fault {
            Fault::UnauthorizedOnce => Left::Times(1),
            _ if rule.times <= 0 => Left::UntilReset,
            _ => Left::Times(rule.times),
        };
        self.0.push(Armed {
            rule: Arc::new(rule),
            left,
        });
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The rules in force; `times` is what is left of them.
    pub(crate) fn list(&self) -> Vec<Rule> {
        let left = |armed: &Armed| match armed.left {
            Left::Times(times) => times,
            Left::UntilReset => 0,
        };
        self.0
            .iter()
            .map(|armed| Rule {
                times: left(armed),
                ..Rule::clone(&armed.rule)
            })
            .collect()
    }

    /// The fault of this request, used up by one.
    pub(crate) fn take(&mut self, request: Request<'_>) -> Option<Arc<Rule>> {
        let index = self.0.iter().position(|armed| {
            let rule = &armed.rule;
            rule.on == request.target
                && rule
                    .route
                    .as_deref()
                    .is_none_or(|route| request.path.contains(route))
                && (rule.grant.is_none() || rule.grant.as_deref() == request.grant)
        })?;
        let armed = self.0.get_mut(index)?;
        let rule = Arc::clone(&armed.rule);
        if let Left::Times(times) = &mut armed.left {
            *times -= 1;
            if *times == 0 {
                self.0.remove(index);
            }
        }
        Some(rule)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(json: serde_json::Value) -> Rule {
        serde_json::from_value(json).unwrap()
    }

    const REFRESH: Request<'static> = Request {
        target: Target::Token,
        path: "/oauth/token",
        query: "",
        grant: Some("refresh_token"),
    };
    const SEARCH: Request<'static> = Request {
        target: Target::Api,
        path: "/api/v2/persons/search",
        query: "",
        grant: None,
    };

    fn names(faults: &mut Faults, request: Request<'_>, calls: usize) -> Vec<Option<&'static str>> {
        (0..calls)
            .map(|_| faults.take(request).map(|rule| rule.fault.name()))
            .collect()
    }

    #[test]
    fn a_fault_strikes_as_often_as_it_says() {
        let mut faults = Faults::default();
        faults.arm(rule(json!({"on": "token", "fault": "500", "times": 2})));
        faults.arm(rule(json!({"on": "token", "fault": "reset"})));

        let struck = names(&mut faults, REFRESH, 4);

        assert_eq!(struck, [Some("500"), Some("500"), Some("reset"), None]);
    }

    #[test]
    fn without_an_end_it_strikes_until_the_reset() {
        let mut faults = Faults::default();
        faults.arm(rule(json!({"on": "api", "fault": "401", "times": 0})));
        faults.arm(rule(json!({"on": "api", "fault": "401_once", "times": 0})));

        assert_eq!(names(&mut faults, SEARCH, 50), [Some("401"); 50]);
        assert_eq!(faults.list().len(), 2);
        faults.clear();
        assert_eq!(names(&mut faults, SEARCH, 1), [None]);
    }

    #[test]
    fn a_fault_strikes_what_it_fits() {
        let mut faults = Faults::default();
        faults.arm(rule(
            json!({"on": "token", "grant": "authorization_code", "fault": "500"}),
        ));
        faults.arm(rule(
            json!({"on": "api", "route": "users/me", "fault": "500"}),
        ));

        assert_eq!(names(&mut faults, REFRESH, 1), [None]);
        assert_eq!(names(&mut faults, SEARCH, 1), [None]);
    }

    #[test]
    fn a_rule_without_its_parameter_is_refused() {
        for incomplete in [
            json!({"on": "api", "fault": "slow_ms"}),
            json!({"on": "api", "fault": "call"}),
            json!({"on": "token", "fault": "changed_api_domain"}),
            json!({"on": "api", "fault": "changed_api_domain", "api_domain": "http://x"}),
        ] {
            assert!(rule(incomplete).check().is_err());
        }
    }

    #[test]
    fn names_are_those_of_the_rules() {
        let json = serde_json::to_value(Fault::CloudflareBlock).unwrap();

        assert_eq!(json, Fault::CloudflareBlock.name());
    }
}
