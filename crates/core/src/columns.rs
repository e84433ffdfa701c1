//! How our types are written to and read from columns.

use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, Queryable};
use diesel::expression::AsExpression;
use diesel::internal::derives::as_expression::Bound;
use diesel::mysql::{Mysql, MysqlValue};
use diesel::pg::{Pg, PgValue};
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::{BigInt, Datetime, Nullable, SingleValue, SqlType, Text, Timestamptz};
use diesel::sqlite::Sqlite;

use crate::clock::Timestamp;
use crate::connection::{AccountName, ConnectionId, ConnectionState};
use crate::schema::Instant;

/// A stored word is parsed when it is read: a row that breaks our rules is an error, not a surprise later on.
macro_rules! parsed_from_text {
    ($($type:ty),+) => { $(
        impl<DB> FromSql<Text, DB> for $type
        where
            DB: Backend,
            String: FromSql<Text, DB>,
        {
            fn from_sql(value: DB::RawValue<'_>) -> deserialize::Result<Self> {
                Ok(Self::from_str(&String::from_sql(value)?)?)
            }
        }
    )+ };
}

/// What `#[derive(FromSqlRow)]` writes, for types whose own modules know no database.
macro_rules! one_column {
    ($($type:ty),+) => { $(
        impl<ST, DB> Queryable<ST, DB> for $type
        where
            ST: SingleValue,
            DB: Backend,
            Self: FromSql<ST, DB>,
        {
            type Row = Self;

            fn build(value: Self) -> deserialize::Result<Self> {
                Ok(value)
            }
        }
    )+ };
}

parsed_from_text!(ConnectionId, AccountName, ConnectionState);
one_column!(ConnectionId, AccountName, ConnectionState, Timestamp);

/// What `#[derive(AsExpression)]` writes.
impl AsExpression<Instant> for Timestamp {
    type Expression = Bound<Instant, Self>;

    fn as_expression(self) -> Self::Expression {
        Bound::new(self)
    }
}

impl AsExpression<Nullable<Instant>> for Timestamp {
    type Expression = Bound<Nullable<Instant>, Self>;

    fn as_expression(self) -> Self::Expression {
        Bound::new(self)
    }
}

impl<DB> ToSql<Nullable<Instant>, DB> for Timestamp
where
    DB: Backend,
    Self: ToSql<Instant, DB>,
    Instant: SqlType,
{
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, DB>) -> serialize::Result {
        ToSql::<Instant, DB>::to_sql(self, out)
    }
}

impl ToSql<Instant, Pg> for Timestamp {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        ToSql::<Timestamptz, Pg>::to_sql(&storable(*self), &mut out.reborrow())
    }
}

impl FromSql<Instant, Pg> for Timestamp {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        <DateTime<Utc> as FromSql<Timestamptz, Pg>>::from_sql(value).map(Self::new)
    }
}

impl ToSql<Instant, Mysql> for Timestamp {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Mysql>) -> serialize::Result {
        ToSql::<Datetime, Mysql>::to_sql(&storable(*self).naive_utc(), &mut out.reborrow())
    }
}

impl FromSql<Instant, Mysql> for Timestamp {
    fn from_sql(value: MysqlValue<'_>) -> deserialize::Result<Self> {
        <NaiveDateTime as FromSql<Datetime, Mysql>>::from_sql(value)
            .map(|naive| Self::new(naive.and_utc()))
    }
}

impl ToSql<Instant, Sqlite> for Timestamp {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(storable(*self).timestamp_micros());
        Ok(IsNull::No)
    }
}

impl FromSql<Instant, Sqlite> for Timestamp {
    fn from_sql(value: <Sqlite as Backend>::RawValue<'_>) -> deserialize::Result<Self> {
        let micros = <i64 as FromSql<BigInt, Sqlite>>::from_sql(value)?;
        Self::from_unix_micros(micros).ok_or_else(|| "an instant beyond the end of time".into())
    }
}

/// `MySQL` ends with the year 9999 and starts with 1000: what lies beyond is stored as that end, everywhere.
fn storable(at: Timestamp) -> DateTime<Utc> {
    at.datetime()
        .clamp(first().datetime(), Timestamp::far_future().datetime())
}

fn first() -> Timestamp {
    Timestamp::from_unix_micros(-30_610_224_000_000_000).expect("the year 1000 exists")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealed::Sealed;

    #[test]
    fn instants_beyond_every_calendar_are_cut_to_it() {
        let far = Timestamp::new(DateTime::<Utc>::MAX_UTC);
        let past = Timestamp::new(DateTime::<Utc>::MIN_UTC);
        assert_eq!(
            Timestamp::new(storable(far)).to_string(),
            "9999-12-31T23:59:59.999999Z"
        );
        assert_eq!(
            Timestamp::new(storable(past)).to_string(),
            "1000-01-01T00:00:00.000000Z"
        );
    }

    #[test]
    fn debug_does_not_show_what_is_sealed() {
        assert_eq!(format!("{:?}", Sealed::from(vec![1, 2, 3])), "[sealed]");
    }
}
