//! The tables as all three databases have them (`migrations/*`).

use diesel::query_builder::QueryId;
use diesel::sql_types::SqlType;

/// An instant: `timestamptz`, `DATETIME(6)` in UTC, or microseconds since 1970 in an `INTEGER`.
#[derive(Debug, Clone, Copy, SqlType, QueryId)]
#[diesel(postgres_type(oid = 1184, array_oid = 1185))]
#[diesel(mysql_type(name = "DateTime"))]
#[diesel(sqlite_type(name = "Long"))]
pub struct Instant;

diesel::table! {
    use diesel::sql_types::{BigInt, Binary, Bool, Integer, Nullable, Text};
    use super::Instant;

    connections (id) {
        id -> Text,
        platform -> Text,
        app_id -> Text,
        account_id -> Text,
        owner -> Text,
        company_id -> Text,
        company_domain -> Text,
        company_name -> Text,
        user_id -> Text,
        user_name -> Text,
        api_domain -> Text,
        scope -> Text,
        access_token -> Binary,
        refresh_token -> Binary,
        expires_at -> Instant,
        refreshed_at -> Nullable<Instant>,
        authorized_at -> Instant,
        idle_deadline -> Nullable<Instant>,
        last_used_at -> Nullable<Instant>,
        generation -> BigInt,
        state -> Text,
        state_reason -> Nullable<Text>,
        state_since -> Instant,
        in_doubt -> Bool,
        lease_owner -> Nullable<Text>,
        due_at -> Instant,
        early_renewals -> Integer,
        failures -> Integer,
        retry_at -> Nullable<Instant>,
        last_error -> Nullable<Text>,
        revoke_pending -> Bool,
        created_at -> Instant,
        updated_at -> Instant,
    }
}

diesel::table! {
    use diesel::sql_types::{Binary, Nullable, Text};
    use super::Instant;

    logins (state_hash) {
        state_hash -> Text,
        platform -> Text,
        app_id -> Text,
        account_id -> Nullable<Text>,
        owner -> Nullable<Text>,
        verifier -> Nullable<Binary>,
        binding_hash -> Text,
        forward_url -> Nullable<Text>,
        expires_at -> Instant,
        created_at -> Instant,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Nullable, Text};
    use super::Instant;

    refresh_log (id) {
        id -> Text,
        connection_id -> Text,
        started_at -> Instant,
        trigger_kind -> Text,
        outcome -> Text,
        generation_before -> BigInt,
        generation_after -> Nullable<BigInt>,
        duration_ms -> BigInt,
        error -> Nullable<Text>,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Text};
    use super::Instant;

    page_marks (connection_id, listing, start) {
        connection_id -> Text,
        listing -> Text,
        start -> BigInt,
        page_cursor -> Text,
        last_id -> BigInt,
        expires_at -> Instant,
    }
}

diesel::table! {
    use diesel::sql_types::Text;
    use super::Instant;

    app_credentials (platform, app_id) {
        platform -> Text,
        app_id -> Text,
        fingerprint -> Text,
        updated_at -> Instant,
    }
}

diesel::table! {
    use diesel::sql_types::{Nullable, Text};
    use super::Instant;

    imports (source_table, source_row) {
        source_table -> Text,
        source_row -> Text,
        connection_id -> Text,
        token_hash -> Text,
        handed_back_at -> Nullable<Instant>,
        created_at -> Instant,
        updated_at -> Instant,
        replaced_at -> Nullable<Instant>,
    }
}

diesel::table! {
    use diesel::sql_types::Text;
    use super::Instant;

    /// `account_id` is empty for the default connection of the app itself.
    default_connections (platform, app_id, account_id) {
        platform -> Text,
        app_id -> Text,
        account_id -> Text,
        connection_id -> Text,
        company_id -> Text,
        user_id -> Text,
        reason -> Text,
        set_at -> Instant,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Binary, Bool, Nullable, Text};
    use super::Instant;

    callbacks (id) {
        id -> Text,
        state_hash -> Nullable<Text>,
        claimer -> Text,
        heartbeats -> BigInt,
        tokens_stored -> Bool,
        result -> Nullable<Binary>,
        claimed_at -> Instant,
        finished_at -> Nullable<Instant>,
    }
}

diesel::joinable!(imports -> connections (connection_id));
diesel::joinable!(default_connections -> connections (connection_id));
diesel::allow_tables_to_appear_in_same_query!(imports, connections);
diesel::allow_tables_to_appear_in_same_query!(default_connections, connections);

diesel::table! {
    /// Diesel's own list of the migrations that have run.
    __diesel_schema_migrations (version) {
        version -> Text,
    }
}
