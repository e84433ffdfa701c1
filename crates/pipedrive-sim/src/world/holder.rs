//! Whose a grant is, and which grants a control means.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A consent belongs to one user of one company and one app, and there is one grant for each such three.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(
    clippy::struct_field_names,
    reason = "they are called so in every Pipedrive body"
)]
pub(crate) struct Holder {
    pub(crate) client_id: String,
    pub(crate) company_id: u64,
    pub(crate) user_id: u64,
}

/// Which grants a control means; what is not given matches everything.
#[derive(Debug, Default, Clone, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Selection {
    pub(crate) company: Option<u64>,
    pub(crate) user: Option<u64>,
    pub(crate) client_id: Option<String>,
}

impl Selection {
    pub(crate) fn covers(&self, holder: &Holder) -> bool {
        self.company.is_none_or(|id| id == holder.company_id)
            && self.user.is_none_or(|id| id == holder.user_id)
            && self
                .client_id
                .as_ref()
                .is_none_or(|id| *id == holder.client_id)
    }
}
